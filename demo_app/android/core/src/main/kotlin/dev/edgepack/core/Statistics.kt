package dev.edgepack.core

import kotlin.math.ceil
import kotlin.math.floor
import kotlin.math.min
import kotlin.math.roundToLong

// A quantile needs so many samples on its rarer side (edgepack.latency.statistics.SAMPLES_BEYOND has the derivation).
private const val SAMPLES_BEYOND = 10

/** How many samples a quantile needs: 20 for p50, 100 for p90, 1000 for p99. */
fun fewestSamples(quantile: Double): Int = ceil((SAMPLES_BEYOND / min(quantile, 1 - quantile) * 1e6).roundToLong() / 1e6).toInt()

/** Linear between order statistics (R. J. Hyndman, Y. Fan, 1996, type 7; numpy's default); null where samples are too few for it. */
fun quantile(samples: LongArray, quantile: Double): Double? {
    require(quantile > 0 && quantile < 1) { "there is no quantile $quantile" }
    if (samples.size < fewestSamples(quantile)) return null
    val ordered = samples.sortedArray()
    val at = quantile * (ordered.size - 1)
    val below = floor(at).toInt()
    return ordered[below] + (at - below) * (ordered[min(below + 1, ordered.size - 1)] - ordered[below])
}
