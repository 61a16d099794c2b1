package dev.edgepack.core

import java.util.Base64
import kotlin.math.abs
import kotlin.test.Test
import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import kotlin.test.assertTrue
import org.json.JSONArray
import org.json.JSONObject

class PreprocessingTest {
    private val cases = Expected.json.getJSONArray("images").objects()

    @Test
    fun `every resize, crop and normalization gives the sample that Pillow's passes and Python's arithmetic give, bit for bit`() {
        assertEquals(setOf("bilinear", "bicubic", "nearest"), cases.map { it.getJSONObject("preprocessing").getString("interpolation") }.toSet())
        for (case in cases) {
            val (preprocessing, image) = preprocessing(case.getJSONObject("preprocessing")) to madeUp(case.getInt("width"), case.getInt("height"))
            val pixels = preprocessing.fit(if (preprocessing.channels == 1) image.grey() else image).pixels
            assertContentEquals(Base64.getDecoder().decode(case.getString("rows_first")), pixels, "$case")
            val samples = case.getJSONObject("samples")
            for (layout in samples.keyNames()) assertEquals(samples.getString(layout), sha256(preprocessing.sample(image, layout).bytes()), "$layout of $case")
        }
    }

    @Test
    fun `pixels are those of the build's Pillow within what the order of its passes can change`() {
        for (case in cases) {
            val (one, other) = Base64.getDecoder().let { it.decode(case.getString("rows_first")) to it.decode(case.getString("fitted")) }
            // Each pass rounds by half a level at most, so either order is less than 1 from the exact value, and whole numbers that are less
            // than 2 apart differ by 1. Bicubic weights sum to 1.3 in magnitude and carry the first rounding on by as much: below 2.3, so 2.
            val most = if (case.getJSONObject("preprocessing").getString("interpolation") == "bicubic") 2 else 1
            assertTrue(one.indices.all { abs((one[it].toInt() and 0xff) - (other[it].toInt() and 0xff)) <= most }, "$case")
        }
    }

    @Test
    fun `a camera's frame is turned upright and its padding is left out`() {
        // 2 rows of 3 pixels, red counts 1 to 6, 5 bytes of padding a row.
        val rgba = ByteArray(2 * 17)
        for (y in 0..1) for (x in 0..2) rgba[y * 17 + 4 * x] = (3 * y + x + 1).toByte()
        fun reds(degrees: Int) = Image.ofRgba(rgba, 3, 2, 17, degrees).let { image -> (0 until image.height).map { y -> (0 until image.width).map { image.at(it, y, 0) } } }
        assertEquals(listOf(listOf(1, 2, 3), listOf(4, 5, 6)), reds(0))
        assertEquals(listOf(listOf(4, 1), listOf(5, 2), listOf(6, 3)), reds(90))
        assertEquals(listOf(listOf(6, 5, 4), listOf(3, 2, 1)), reds(180))
        assertEquals(listOf(listOf(3, 6), listOf(2, 5), listOf(1, 4)), reds(270))
    }

    /** The rule of `fixtures.made_up`. */
    private fun madeUp(width: Int, height: Int) = Image(width, height, 3, ByteArray(width * height * 3) {
        val (x, y, channel) = Triple(it / 3 % width, it / 3 / width, it % 3)
        ((7 * x + 13 * y + 29 * channel + 5 * ((x * y) % 31)) % 256).toByte()
    })

    private fun preprocessing(held: JSONObject) = Preprocessing(
        held.getInt("height"), held.getInt("width"), held.getInt("channels"), held.getString("resize"), held.getString("interpolation"),
        floats(held.getJSONArray("mean")), floats(held.getJSONArray("std")), held.getBoolean("invert"), held.getBoolean("folded"),
    )

    private fun floats(held: JSONArray) = held.doubles().map(Double::toFloat)
}
