package dev.edgepack.core

/** 8-bit pixels, rows from the top, [channels] (1 or 3) interleaved. */
class Image(val width: Int, val height: Int, val channels: Int, val pixels: ByteArray) {
    init {
        require(pixels.size == width * height * channels) { "${pixels.size} bytes are not $width x $height x $channels pixels" }
    }

    fun at(x: Int, y: Int, channel: Int): Int = pixels[(y * width + x) * channels + channel].toInt() and 0xff

    /** ITU-R 601 luma in the 16-bit integers that Pillow uses. */
    fun grey(): Image {
        if (channels == 1) return this
        return Image(width, height, 1, ByteArray(width * height) { luma(it % width, it / width).toByte() })
    }

    private fun luma(x: Int, y: Int): Int = (at(x, y, 0) * 19595 + at(x, y, 1) * 38470 + at(x, y, 2) * 7471 + 0x8000) shr 16

    companion object {
        /**
         * A frame as cameras give it: RGBA rows of [rowStride] bytes, turned clockwise by [degrees] (0, 90, 180, 270) to stand upright.
         */
        fun ofRgba(rgba: ByteArray, width: Int, height: Int, rowStride: Int, degrees: Int): Image {
            val turned = degrees % 180 != 0
            val (w, h) = if (turned) height to width else width to height
            val pixels = ByteArray(3 * w * h)
            for (y in 0 until h) for (x in 0 until w) {
                val (column, row) = when (degrees) {
                    90 -> y to height - 1 - x
                    180 -> width - 1 - x to height - 1 - y
                    270 -> width - 1 - y to x
                    else -> x to y
                }
                rgba.copyInto(pixels, 3 * (y * w + x), row * rowStride + 4 * column, row * rowStride + 4 * column + 3)
            }
            return Image(w, h, 3, pixels)
        }
    }
}

/**
 * From an image to the student's input, as `edgepack.student.spec.ImagePreprocessing` says, bit for bit what Python computes.
 *
 * @property resize "stretch", or "cover": the shorter side fits, the centre is cropped.
 * @property interpolation "bilinear", "bicubic" or "nearest", with Pillow's anti-aliasing.
 * @property mean one value, or one a channel; std likewise, in units of 0..1.
 * @property folded invert, mean and std are part of the model: a sample is the pixels.
 */
data class Preprocessing(
    val height: Int,
    val width: Int,
    val channels: Int,
    val resize: String,
    val interpolation: String,
    val mean: List<Float>,
    val std: List<Float>,
    val invert: Boolean,
    val folded: Boolean,
) {
    /** One sample, float32 (1, C, H, W), or (1, H, W, C) for layout "NHWC". */
    fun sample(image: Image, layout: String): Tensor {
        val fitted = fit(if (channels == 1) image.grey() else image)
        val values = FloatArray(width * height * channels)
        val last = layout == "NHWC"
        for (at in 0 until width * height) for (channel in 0 until channels) {
            val to = if (last) at * channels + channel else channel * width * height + at
            values[to] = normalized(fitted.pixels[at * channels + channel].toInt() and 0xff, channel)
        }
        return Tensor.floats(if (last) listOf(1, height, width, channels) else listOf(1, channels, height, width), values)
    }

    fun fit(image: Image): Image = resized(image, width, height, interpolation, if (resize == "cover") centre(image) else Box.whole(image))

    /** The largest part in the middle with the input's proportions, in fractions of pixels as `PIL.ImageOps.fit` has it. */
    private fun centre(image: Image): Box {
        val (wide, high) = image.width.toDouble() to image.height.toDouble()
        val ratio = width.toDouble() / height
        if (wide / high == ratio) return Box.whole(image)
        val (w, h) = if (wide / high >= ratio) ratio * high to high else wide to wide / ratio
        val (left, top) = (wide - w) * 0.5 to (high - h) * 0.5
        return Box(left.toFloat(), top.toFloat(), (left + w).toFloat(), (top + h).toFloat())
    }

    private fun normalized(pixel: Int, channel: Int): Float {
        if (folded) return pixel.toFloat()
        val unit = if (invert) 1 - pixel / 255f else pixel / 255f
        return (unit - mean[if (mean.size > 1) channel else 0]) / std[if (std.size > 1) channel else 0]
    }
}
