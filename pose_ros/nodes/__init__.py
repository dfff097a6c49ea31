"""The ROS 2 nodes: the only code that knows rclpy and messages."""
