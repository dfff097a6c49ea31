"""Commands that run the pipeline without ROS."""
