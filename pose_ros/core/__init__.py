"""The pipeline without ROS and without knowledge of any network."""
