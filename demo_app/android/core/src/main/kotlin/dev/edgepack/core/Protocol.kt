package dev.edgepack.core

import kotlin.math.sign

/**
 * How latency is taken, as `edgepack/runner/contract.py` does it: settle, batches that span the clock's steps, A B B A. Nothing is dropped.
 *
 * @property profile as `edgepack bench --profile` calls it.
 * @property warmUp the fewest queries before measuring. pairs: the fewest interleaved rounds.
 * @property seconds the shortest time the rounds go on. warmUpSeconds: the longest that more warm-up may take until times have settled.
 */
data class Protocol(val profile: String, val warmUp: Int, val pairs: Int, val seconds: Double, val warmUpSeconds: Double) {
    companion object {
        /** `edgepack.latency.protocol.PROFILES`; a unit test holds both to the same numbers. */
        val PROFILES: List<Protocol> = listOf(
            Protocol("smoke", 5, 40, 0.2, 0.0),
            Protocol("quick", 20, 300, 1.0, 2.0),
            Protocol("mlperf", 50, 1024, 60.0, 10.0),
            Protocol("sustained", 50, 1024, 600.0, 10.0),
        )
    }
}

/** Queries that are compared with as many before them to see whether times still fall. */
const val WINDOW = 10

/** A batch spans at least so many steps of its clock: an error of one step is then at most 2 %. */
const val FEWEST_TICKS = 50
const val MOST_INNER = 1 shl 20

// A batch is made for twice as many steps: the times it is chosen by are not the fastest that will come.
private const val HEADROOM = 2
private const val TRIES = 3
// What hears of the progress may draw on the screen: ten times a run, and never inside a round.
private const val TOLD_EVERY = 0.1
// Steps of the clock that are looked at, and reads until it is given up.
private const val STEPS = 16
private const val READS = 200_000

/** Nanoseconds, monotonic; handed in so that tests can bring their own. */
fun interface Clock {
    fun nanoseconds(): Long
}

/**
 * One artifact's part of an interleaved run.
 *
 * @property warmUp nanoseconds of each query of the warm-up.
 * @property inner queries timed as one; taken: nanoseconds a query; starts: when each began, nanoseconds since the first. Both in the order taken.
 */
class Series(val warmUp: LongArray, val inner: Int, val taken: LongArray, val starts: LongArray)

/** Times queries against each other; [clock] is read around each batch. */
class Stopwatch(private val clock: Clock) {
    /** The whole protocol; [progress] hears fractions from 0 to 1 between rounds. IllegalStateException when the clock goes back. */
    fun measure(queries: List<() -> Unit>, protocol: Protocol, progress: (Double) -> Unit = {}): List<Series> {
        val warmUps = queries.map { settle(it, protocol) }
        val step = step()
        val inner = queries.mapIndexed { index, query -> batch(query, warmUps[index], step) }
        val (taken, starts) = interleave(queries, inner, protocol, progress)
        return queries.indices.map { Series(warmUps[it], inner[it], taken[it].toLongArray(), starts[it].toLongArray()) }
    }

    /** Nanoseconds between readings that differ, the smallest of some; 0 for a clock that does not move. */
    fun step(): Long {
        var last = clock.nanoseconds()
        val steps = mutableListOf<Long>()
        for (read in 0 until READS) {
            if (steps.size == STEPS) break
            val now = clock.nanoseconds()
            if (now > last) {
                steps += now - last
                last = now
            }
        }
        return steps.minOrNull() ?: 0
    }

    /** At least the profile's warm-up, then more until times no longer fall or its time is over. */
    fun settle(query: () -> Unit, protocol: Protocol): LongArray {
        val until = clock.nanoseconds() + (protocol.warmUpSeconds * 1e9).toLong()
        val times = MutableList(protocol.warmUp) { timed(query, 1) }
        while (protocol.warmUpSeconds > 0 && !isSettled(times) && clock.nanoseconds() < until) repeat(WINDOW) { times += timed(query, 1) }
        return times.toLongArray()
    }

    /** How many queries span enough steps of the clock: doubled until the fastest of some batches does. */
    fun batch(query: () -> Unit, warmUp: LongArray, step: Long): Int {
        val needed = HEADROOM * FEWEST_TICKS * step
        var count = 1
        var fastest = warmUp.minOrNull() ?: needed
        while (fastest < needed && count < MOST_INNER) {
            count *= 2
            fastest = (1..TRIES).minOf { timed(query, count) }
        }
        return count
    }

    private fun interleave(
        queries: List<() -> Unit>,
        inner: List<Int>,
        protocol: Protocol,
        progress: (Double) -> Unit,
    ): Pair<List<List<Long>>, List<List<Long>>> {
        val (taken, starts) = List(queries.size) { ArrayList<Long>() } to List(queries.size) { ArrayList<Long>() }
        val begun = clock.nanoseconds()
        var (rounds, now) = 0 to begun
        var told = 0.0
        while (rounds < protocol.pairs || now - begun < protocol.seconds * 1e9) {
            for (index in if (rounds % 2 == 0) queries.indices else queries.indices.reversed()) {
                val start = clock.nanoseconds()
                val spent = timed(queries[index], inner[index])
                starts[index] += start - begun
                taken[index] += (spent + inner[index] / 2) / inner[index]
            }
            now = clock.nanoseconds()
            rounds++
            val share = minOf(rounds.toDouble() / protocol.pairs, if (protocol.seconds > 0) (now - begun) / (protocol.seconds * 1e9) else 1.0, 1.0)
            if (share >= told + TOLD_EVERY) progress(share.also { told = it })
        }
        return taken to starts
    }

    private fun timed(query: () -> Unit, count: Int): Long {
        val start = clock.nanoseconds()
        for (done in 0 until count) query()
        val spent = clock.nanoseconds() - start
        check(spent >= 0) { "the clock went back ${-spent} ns: no time of this run can be trusted" }
        return spent
    }
}

/** Whether the last window of times is no faster than the one before it (Mann and Whitney's statistic is not above its mean). */
fun isSettled(times: List<Long>): Boolean {
    if (times.size < 2 * WINDOW) return false
    val later = times.takeLast(WINDOW)
    return times.subList(times.size - 2 * WINDOW, times.size - WINDOW).sumOf { one -> later.sumOf { (one - it).sign } } <= 0
}
