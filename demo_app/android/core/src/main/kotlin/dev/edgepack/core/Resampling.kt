package dev.edgepack.core

import kotlin.math.abs
import kotlin.math.ceil
import kotlin.math.floor
import kotlin.math.max

/** A part of an image in pixels; edges lie between pixels too, in the 32-bit floats that Pillow has them in. */
data class Box(val left: Float, val top: Float, val right: Float, val bottom: Float) {
    companion object {
        fun whole(image: Image) = Box(0f, 0f, image.width.toFloat(), image.height.toFloat())
    }
}

/** Pillow keeps weights in so many bits: 32 of an integer less 8 of the pixel and 2 for sums of weights above 1. */
private const val PRECISION = 32 - 8 - 2

private class Filter(val support: Double, val weight: (Double) -> Double)

private val FILTERS = mapOf(
    "bilinear" to Filter(1.0) { x -> max(0.0, 1 - abs(x)) },
    "bicubic" to Filter(2.0, ::cubic),
)

/** Keys's cubic with a = -0.5 (R. G. Keys, 1981, equation 4). */
private fun cubic(x: Double): Double {
    val (far, a) = abs(x) to -0.5
    return when {
        far < 1 -> ((a + 2) * far - (a + 3)) * far * far + 1
        far < 2 -> (((far - 5) * far + 8) * far - 4) * a
        else -> 0.0
    }
}

/**
 * The part of an image in another size, with the pixels that Pillow's `Image.resize(size, method, box)` gives: when it gets smaller the
 * filter is widened by the scale (anti-aliasing), and each pass rounds to 8 bits. Rows come before columns; Pillow 13 begins with either,
 * by the sizes, and then a pixel may be one level away.
 */
fun resized(image: Image, width: Int, height: Int, interpolation: String, box: Box): Image {
    if (width == image.width && height == image.height && box == Box.whole(image)) return image
    val filter = FILTERS[interpolation] ?: return nearest(image, width, height, box)
    val rows = if (width == image.width && box.left == 0f && box.right == width.toFloat()) image
    else alongRows(image, width, weights(image.width, box.left, box.right, width, filter))
    return if (height == rows.height && box.top == 0f && box.bottom == height.toFloat()) rows
    else alongColumns(rows, height, weights(rows.height, box.top, box.bottom, height, filter))
}

/** What one pixel of the result is made of: pixels from [first] on, by whole-number weights. */
private class Weights(val first: Int, val values: IntArray)

private fun weights(size: Int, from: Float, to: Float, wanted: Int, filter: Filter): List<Weights> {
    val scale = (to - from).toDouble() / wanted
    val widened = max(scale, 1.0)
    val support = filter.support * widened
    return List(wanted) { index ->
        val centre = from + (index + 0.5) * scale
        val first = max(0, (centre - support + 0.5).toInt())
        val end = minOf(size, (centre + support + 0.5).toInt())
        val exact = DoubleArray(end - first) { filter.weight((it + first - centre + 0.5) * (1 / widened)) }
        val sum = exact.sum()
        Weights(first, IntArray(exact.size) { rounded(exact[it] / sum * (1 shl PRECISION)) })
    }
}

/** Halves away from zero. */
private fun rounded(value: Double): Int = (if (value < 0) ceil(value - 0.5) else floor(value + 0.5)).toInt()

private fun alongRows(image: Image, width: Int, weights: List<Weights>): Image {
    val (channels, result) = image.channels to ByteArray(width * image.height * image.channels)
    for (y in 0 until image.height) for (x in 0 until width) for (channel in 0 until channels) {
        val start = (y * image.width + weights[x].first) * channels + channel
        result[(y * width + x) * channels + channel] = weighted(image.pixels, start, channels, weights[x].values)
    }
    return Image(width, image.height, channels, result)
}

private fun alongColumns(image: Image, height: Int, weights: List<Weights>): Image {
    val stride = image.width * image.channels
    val result = ByteArray(stride * height)
    for (y in 0 until height) for (x in 0 until stride) {
        result[y * stride + x] = weighted(image.pixels, weights[y].first * stride + x, stride, weights[y].values)
    }
    return Image(image.width, height, image.channels, result)
}

private fun weighted(pixels: ByteArray, start: Int, stride: Int, weights: IntArray): Byte {
    var sum = 1 shl (PRECISION - 1)
    for (index in weights.indices) sum += (pixels[start + index * stride].toInt() and 0xff) * weights[index]
    return (sum shr PRECISION).coerceIn(0, 255).toByte()
}

/** Pillow steps from the middle of the first pixel, adding the scale each time. */
private fun nearest(image: Image, width: Int, height: Int, box: Box): Image {
    val columns = steps(box.left, (box.right - box.left).toDouble() / width, width)
    val rows = steps(box.top, (box.bottom - box.top).toDouble() / height, height)
    val channels = image.channels
    return Image(width, height, channels, ByteArray(width * height * channels) {
        val pixel = it / channels
        image.at(columns[pixel % width], rows[pixel / width], it % channels).toByte()
    })
}

private fun steps(from: Float, scale: Double, count: Int): IntArray {
    var at = from + scale * 0.5
    return IntArray(count) { floor(at).toInt().also { at += scale } }
}
