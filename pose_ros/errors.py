"""The errors pose_ros raises on purpose: what was expected, what came, what to do."""


class PoseRosError(Exception):
    """Base of every error that pose_ros raises on purpose."""


class ConfigError(PoseRosError, ValueError):
    """A parameter is unknown, out of range or contradicts another one."""


class ShapeError(PoseRosError, ValueError):
    """An array or an image buffer has another shape, dtype, size or encoding than its contract."""


class WeightsError(PoseRosError, RuntimeError):
    """Weights or their card are missing, damaged or belong to another network."""


class CalibrationError(PoseRosError, ValueError):
    """A camera calibration cannot be used, for example because its matrix is zero."""


class SourceError(PoseRosError, OSError):
    """A video, picture folder, camera or bag cannot be opened or read."""
