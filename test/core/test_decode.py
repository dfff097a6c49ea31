"""Image buffers: the colours, and everything that is refused."""

import cv2
import numpy as np
import pytest

from pose_ros.core.decode import decode_compressed, decode_image
from pose_ros.errors import ShapeError

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
PICTURE = np.array([[RED, GREEN, BLUE, WHITE]] * 2, np.uint8)  # (2, 4, 3) RGB


def decode(pixels: np.ndarray, encoding: str, **more: object) -> np.ndarray:
    size = {"height": pixels.shape[0], "width": pixels.shape[1]}
    step = pixels[0].nbytes
    return decode_image(pixels.tobytes(), **(size | {"encoding": encoding, "step": step} | more))


@pytest.mark.parametrize(
    ("encoding", "pixels"),
    [
        ("rgb8", PICTURE),
        ("bgr8", PICTURE[..., ::-1]),
        ("8UC3", PICTURE[..., ::-1]),
        ("rgba8", np.dstack([PICTURE, np.full((2, 4), 7, np.uint8)])),
        ("bgra8", np.dstack([PICTURE[..., ::-1], np.full((2, 4), 7, np.uint8)])),
        ("rgb16", PICTURE.astype(np.uint16) * 256),
        ("bgr16", PICTURE[..., ::-1].astype(np.uint16) * 256 + 255),
    ],
)
def test_colour_encodings(encoding: str, pixels: np.ndarray) -> None:
    np.testing.assert_array_equal(decode(pixels, encoding), PICTURE)


@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_gray_is_repeated_in_three_channels(encoding: str) -> None:
    gray = np.array([[0, 100, 255]], np.uint8)
    np.testing.assert_array_equal(decode(gray, encoding), gray[..., None].repeat(3, 2))


def test_mono16_keeps_the_upper_byte_in_both_byte_orders() -> None:
    gray = np.array([[0x1234, 0xFFEE]], np.uint16)
    wanted = np.array([[[0x12] * 3, [0xFF] * 3]], np.uint8)
    np.testing.assert_array_equal(decode(gray.astype("<u2"), "mono16"), wanted)
    np.testing.assert_array_equal(decode(gray.astype(">u2"), "mono16", is_bigendian=True), wanted)


@pytest.mark.parametrize(
    ("encoding", "order"),
    [("yuv422", "UYVY"), ("uyvy", "UYVY"), ("yuv422_yuy2", "YUYV"), ("yuyv", "YUYV")],
)
def test_yuv422(encoding: str, order: str) -> None:
    # A red pixel pair in BT.601 limited range: Y 81, U 90, V 240.
    values = {"Y": 81, "U": 90, "V": 240}
    row = np.array([values[letter] for letter in order], np.uint8).reshape(1, 2, 2)
    np.testing.assert_allclose(decode(row, encoding), [[RED, RED]], atol=3)


@pytest.mark.parametrize(("encoding", "order"), [("nv12", "UV"), ("nv21", "VU"), ("nv24", "UV")])
def test_a_plane_of_brightness_then_one_of_colour(encoding: str, order: str) -> None:
    """Left half red, right half blue, 4 x 8 pixels; three bytes of padding at a row's end."""
    red, blue = {"Y": 81, "U": 90, "V": 240}, {"Y": 41, "U": 240, "V": 110}
    sub = 1 if encoding == "nv24" else 2
    light = np.repeat([[red["Y"], blue["Y"]]], 4, axis=1).repeat(4, axis=0)
    pair = [[c[letter] for letter in order] for c in (red, blue)]
    colour = np.repeat([pair], 4 // sub, axis=1).repeat(4 // sub, axis=0).reshape(4 // sub, -1)
    light, colour = (np.pad(a, [(0, 0), (0, 3 * a.shape[1] // 8)]) for a in (light, colour))
    data = np.concatenate([light.ravel(), colour.ravel()]).astype(np.uint8).tobytes()
    size = {"width": 8, "height": 4, "encoding": encoding, "step": 11}
    wanted = np.repeat([[RED, BLUE]], 4, axis=1).repeat(4, axis=0)
    np.testing.assert_allclose(decode_image(data, **size), wanted, atol=3)
    with pytest.raises(ShapeError, match=r"expected .* bytes for 4 rows"):
        decode_image(data[:-1], **size)
    with pytest.raises(ShapeError, match="height: expected an even number"):
        decode_image(data, **(size | {"height": 3}))


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
@pytest.mark.parametrize("bits", [8, 16])
def test_bayer_of_a_red_wall_is_red(pattern: str, bits: int) -> None:
    tile = np.array([255 if letter == "r" else 0 for letter in pattern], np.uint8).reshape(2, 2)
    mosaic = np.tile(tile, (4, 4)).astype(np.uint8 if bits == 8 else np.uint16)
    mosaic = mosaic * (1 if bits == 8 else 256)
    inside = decode(mosaic, f"bayer_{pattern}{bits}")[2:-2, 2:-2]
    np.testing.assert_array_equal(inside, np.broadcast_to(RED, inside.shape))


def test_padding_at_the_end_of_rows_is_skipped() -> None:
    padded = np.concatenate([PICTURE.reshape(2, 12), np.full((2, 4), 99, np.uint8)], axis=1)
    got = decode_image(padded.tobytes(), width=4, height=2, encoding="rgb8", step=16)
    np.testing.assert_array_equal(got, PICTURE)


def test_rgb8_is_not_copied() -> None:
    data = bytearray(PICTURE.tobytes())
    image = decode_image(data, width=4, height=2, encoding="rgb8", step=12)
    data[0] = 7
    assert image[0, 0, 0] == 7


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"encoding": "rgb9"}, "'rgb9' is not known; known: 8UC1"),
        ({"encoding": "16UC1"}, "looks like a depth image: remap 'image'"),
        ({"encoding": "32FC1"}, "looks like a depth image"),
        ({"width": 0}, "at least 1 x 1, got 0 x 2"),
        ({"height": 0}, "at least 1 x 1, got 4 x 0"),
        ({"step": 11}, "at least 12 bytes for 4 pixels of rgb8, got 11"),
        ({"step": 13}, "expected 26 bytes for 2 rows of step 13, got 24"),
        ({"height": 3}, "expected 36 bytes for 3 rows of step 12, got 24"),
        ({"encoding": "yuv422", "width": 3, "step": 12}, "even number for yuv422, got 3"),
    ],
)
def test_wrong_raw_images_are_refused(change: dict, words: str) -> None:
    with pytest.raises(ShapeError, match=words.replace("(", r"\(")):
        decode(PICTURE, **({"encoding": "rgb8"} | change))


def test_empty_raw_buffer_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"expected 24 bytes .* got 0"):
        decode_image(b"", width=4, height=2, encoding="rgb8", step=12)


def photo() -> np.ndarray:
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    return np.stack(np.broadcast_arrays(ramp[None], ramp[:, None], np.uint8(128)), axis=2)


def test_png_is_exact_and_jpeg_is_close() -> None:
    bgr = np.ascontiguousarray(photo()[..., ::-1])
    np.testing.assert_array_equal(
        decode_compressed(cv2.imencode(".png", bgr)[1].tobytes()), photo()
    )
    jpeg = decode_compressed(cv2.imencode(".jpg", bgr)[1].tobytes(), "rgb8; jpeg compressed bgr8")
    assert np.abs(jpeg.astype(int) - photo()).mean() < 3


@pytest.mark.parametrize(
    ("data", "fmt", "words"),
    [
        (b"", "jpeg", "got none"),
        (b"not a picture at all", "jpeg", "20 bytes of format 'jpeg' that start with 6e 6f 74"),
        (cv2.imencode(".jpg", photo())[1].tobytes()[:-200], "jpeg", "truncated on the way"),
        (cv2.imencode(".png", photo())[1].tobytes()[:-200], "png", "truncated on the way"),
        (b"\x89PNG\r\n\x1a\nIEND", "png", "truncated on the way"),
        (
            cv2.imencode(".png", np.zeros((4, 4), np.uint16))[1].tobytes(),
            "16UC1; png compressed",
            "8 bits per channel, got 16; is this a depth image",
        ),
        (
            cv2.imencode(".png", photo())[1].tobytes(),
            "16UC1; compressedDepth png",
            "colour picture",
        ),
    ],
)
def test_wrong_compressed_images_are_refused(data: bytes, fmt: str, words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        decode_compressed(data, fmt)


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8", "mono8"])
def test_agrees_with_cv_bridge(encoding: str) -> None:
    cv_bridge = pytest.importorskip("cv_bridge")
    sensor_msgs = pytest.importorskip("sensor_msgs.msg")
    channels = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}[encoding]
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, channels), np.uint8)
    message = sensor_msgs.Image(height=6, width=8, encoding=encoding, step=8 * channels)
    message.data = pixels.tobytes()
    wanted = cv_bridge.CvBridge().imgmsg_to_cv2(message, "rgb8")
    np.testing.assert_array_equal(decode(pixels, encoding), wanted)


def test_a_jpeg_in_a_padded_buffer_is_whole() -> None:
    data = cv2.imencode(".jpg", photo())[1].tobytes()
    np.testing.assert_array_equal(decode_compressed(data + bytes(500)), decode_compressed(data))


def test_a_picture_too_large_for_opencv_is_refused() -> None:
    header = cv2.imencode(".png", photo())[1].tobytes()
    huge = header[:16] + (100_000).to_bytes(4, "big") * 2 + header[24:]
    with pytest.raises(ShapeError, match="compressed image"):
        decode_compressed(huge)
