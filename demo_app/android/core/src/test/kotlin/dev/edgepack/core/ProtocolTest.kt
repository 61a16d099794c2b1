package dev.edgepack.core

import kotlin.test.Test
import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertNull
import kotlin.test.assertTrue

/** A clock that moves when work is done, and in steps. */
class Simulated(private val step: Long = 1) : Clock {
    private var exact = 0L

    fun work(nanoseconds: Long) {
        exact += nanoseconds
    }

    /** Reading it takes 20 ns. */
    override fun nanoseconds(): Long = (exact / step * step).also { exact += 20 }
}

class ProtocolTest {
    @Test
    fun `profiles and constants are those of edgepack`() {
        val held = Expected.json.getJSONArray("profiles")
        val profiles = List(held.length(), held::getJSONArray).map { Protocol(it.getString(0), it.getInt(1), it.getInt(2), it.getDouble(3), it.getDouble(4)) }
        assertEquals(profiles, Protocol.PROFILES)
        assertContentEquals(longArrayOf(WINDOW.toLong(), FEWEST_TICKS.toLong(), MOST_INNER.toLong()), Expected.json.getJSONArray("window").longs())
    }

    @Test
    fun `times are settled where edgepack says so`() {
        for (case in Expected.json.getJSONArray("settled").objects()) {
            assertEquals(case.getBoolean("settled"), isSettled(case.getJSONArray("times").longs().toList()), "$case")
        }
    }

    @Test
    fun `two queries are timed A B, B A, and each for what it takes`() {
        val (clock, order) = Simulated() to StringBuilder()
        val queries = listOf<() -> Unit>({ order.append('A'); clock.work(50_000) }, { order.append('B'); clock.work(80_000) })
        val (a, b) = Stopwatch(clock).measure(queries, Protocol("test", 3, 6, 0.0, 0.0))
        assertEquals("AAABBB" + "ABBAABBAABBA", order.toString())
        // 50 and 80 us, and the one reading of the clock that each time includes.
        assertContentEquals(LongArray(6) { 50_020 }, a.taken)
        assertContentEquals(LongArray(6) { 80_020 }, b.taken)
        assertEquals(listOf(3, 1), listOf(a.warmUp.size, a.inner))
        assertTrue(a.starts.toList().zipWithNext().all { (one, next) -> next > one })
    }

    @Test
    fun `a run goes on for its time when its rounds are done sooner`() {
        val clock = Simulated()
        val series = Stopwatch(clock).measure(listOf { clock.work(1_000_000) }, Protocol("test", 1, 5, 0.05, 0.0)).single()
        assertTrue(series.taken.size in 49..51, "${series.taken.size}")
    }

    @Test
    fun `short queries are timed in batches that span the clock's steps`() {
        val clock = Simulated(step = 1000)
        val series = Stopwatch(clock).measure(listOf { clock.work(700) }, Protocol("test", 20, 50, 0.0, 0.0)).single()
        // Twice 50 steps of 1 us need 143 queries of 0.7 us: 256 are the first power of two.
        assertEquals(256, series.inner)
        assertTrue(series.taken.all { it in 695..705 })
    }

    @Test
    fun `warm-up goes on while times fall, and no longer than it may`() {
        val clock = Simulated()
        var query = 2_000_000L
        val falling = { clock.work(query); query = maxOf(100_000, query * 9 / 10) }
        assertTrue(Stopwatch(clock).settle(falling, Protocol("test", 5, 1, 0.0, 1.0)).size in 30..80)
        query = Long.MAX_VALUE / 1_000_000_000
        val endless = { clock.work(query); query -= 1_000 }
        assertTrue(Stopwatch(clock).settle(endless, Protocol("test", 5, 1, 0.0, 1.0)).size < 200)
    }

    @Test
    fun `a clock that goes back spoils the run`() {
        val clock = Simulated()
        assertFailsWith<IllegalStateException> { Stopwatch(clock).measure(listOf { clock.work(-5_000) }, Protocol("test", 1, 5, 0.0, 0.0)) }
    }

    @Test
    fun `quantiles are numpy's, and too few samples have none`() {
        val held = Expected.json.getJSONObject("quantiles")
        val samples = held.getJSONArray("samples").longs()
        for (name in held.getJSONObject("quantiles").keyNames()) {
            val (q, fewest) = name.toDouble() to held.getJSONObject("fewest").getInt(name)
            // numpy interpolates from the nearer end: an ulp of half a million.
            assertEquals(held.getJSONObject("quantiles").getDouble(name), quantile(samples, q)!!, 1e-9)
            assertEquals(fewest, fewestSamples(q))
            assertNull(quantile(samples.copyOf(fewest - 1), q))
        }
    }
}
