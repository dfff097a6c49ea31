"""Tracked human skeletons for ROS 2 from video pose networks."""
