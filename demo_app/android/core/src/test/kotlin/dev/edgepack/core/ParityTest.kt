package dev.edgepack.core

import kotlin.math.abs
import kotlin.test.Test
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue

class ParityTest {
    private fun parity(scheme: String, answers: Tensor = Expected.answers.getValue(scheme)): OutputParity =
        Check(Expected.pack).parity(Expected.artifact(scheme), Recorded("image", "logits", answers)).single()

    @Test
    fun `what LiteRT answered is as far from the student as edgepack says`() {
        val wanted = Expected.json.getJSONObject("parity")
        for (scheme in wanted.keyNames()) {
            val (found, held) = parity(scheme) to wanted.getJSONObject(scheme)
            // Both sum float64 squares of 160 numbers; only the order may differ: 160 roundings of 2^-53, 1e-13 dB, and the logarithm's.
            assertEquals(held.getDouble("sqnr_db"), found.sqnrDb, 1e-10)
            assertEquals(held.getDouble("max_abs_error"), found.maxAbsError, 0.0)
            assertEquals(held.getDouble("cosine"), found.cosine, 1e-13)
            assertEquals(held.getInt("non_finite"), found.nonFinite)
            assertEquals("", found.failure)
        }
    }

    @Test
    fun `an output that is off by a scale misses its floor and says so`() {
        val wrong = Expected.answers.getValue("w8a8").let { held -> Tensor.floats(held.shape, FloatArray(held.size) { (held.number(it) * 1.2).toFloat() }) }
        assertTrue(Regex("logits is 1\\d\\.\\d dB from the float64 student, below its floor of 35.1 dB.*").matches(parity("w8a8", wrong).failure))
    }

    @Test
    fun `one NaN fails whatever the rest is`() {
        val held = Expected.answers.getValue("fp32")
        val wrong = Tensor.floats(held.shape, FloatArray(held.size) { if (it == 42) Float.NaN else held.number(it).toFloat() })
        assertEquals("logits holds 1 NaN or infinite values", parity("fp32", wrong).failure)
    }

    @Test
    fun `equal outputs are exact and extreme numbers stay in range`() {
        val one = doubleArrayOf(1e200, -1e200, 3e199)
        assertEquals(Double.POSITIVE_INFINITY, sqnrDb(one, DoubleArray(3)))
        assertEquals(60.0, sqnrDb(one, DoubleArray(3) { one[it] / 1000 }), 1e-9)
        assertEquals(-1.0, cosine(one, DoubleArray(3) { -one[it] }), 1e-15)
        assertEquals(0.0, cosine(DoubleArray(3), one))
        assertTrue(abs(sqnrDb(DoubleArray(3) { one[it] * 1e-300 }, DoubleArray(3) { one[it] * 1e-301 }) - 20) < 1e-9)
    }

    @Test
    fun `another shape is refused`() {
        val flat = Expected.answers.getValue("fp32").let { Tensor(it.dtype, listOf(16, 10), it.data) }
        assertFailsWith<PackException> { parity("fp32", flat) }
    }

    @Test
    fun `shares are a softmax of scores and a distribution is left alone`() {
        for (case in Expected.json.getJSONArray("probabilities").objects()) {
            val (found, wanted) = probabilities(case.getJSONArray("scores").doubles()) to case.getJSONArray("shares").doubles()
            // Correctly rounded exponentials differ by an ulp between libraries.
            for (index in wanted.indices) assertEquals(wanted[index], found[index], 4e-16)
        }
    }

    @Test
    fun `the likeliest classes come first with their labels, and a mask has none`() {
        val scores = Tensor.floats(listOf(1, 3), floatArrayOf(0.25f, 0.7f, 0.05f))
        assertEquals(listOf("b", "a"), likeliest(scores, listOf("a", "b", "c"), 2).map { it.label })
        assertEquals(listOf("class 1"), likeliest(scores, emptyList(), 1).map { it.label })
        assertEquals(emptyList(), likeliest(Tensor.floats(listOf(1, 2, 2, 2), FloatArray(8)), listOf("a", "b")))
    }
}

/** Answers that a runtime gave elsewhere, in the order of the golden samples. */
class Recorded(private val input: String, private val output: String, private val answers: Tensor) : Session {
    private var asked = -1
    var queries = 0
        private set

    override fun set(feed: Map<String, Tensor>) {
        check(feed.keys == setOf(input))
        asked = (asked + 1) % answers.shape.first()
    }

    override fun invoke() {
        queries++
    }

    override fun outputs() = mapOf(output to answers.sample(asked))

    override fun close() = Unit
}
