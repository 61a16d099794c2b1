package dev.edgepack.core

import kotlin.math.abs
import kotlin.math.log10
import kotlin.math.max
import kotlin.math.sqrt

/**
 * How far one output is from the float64 run of the student, over the golden samples; as `edgepack.verify.metrics` defines each.
 *
 * @property sqnrDb positive infinity where equal, negative where the output holds NaN or infinity.
 */
data class OutputParity(val name: String, val sqnrDb: Double, val maxAbsError: Double, val cosine: Double, val nonFinite: Int, val floor: OutputFloor) {
    /** "" where it passed. */
    val failure: String
        get() = when {
            nonFinite > 0 -> "$name holds $nonFinite NaN or infinite values"
            floor.decibels == null || sqnrDb >= floor.decibels -> ""
            else -> "%s is %.1f dB from the float64 student, below its floor of %.1f dB (%s)".format(name, sqnrDb, floor.decibels, floor.reason)
        }
}

/** @throws PackException the output has another shape than the student's. */
fun outputParity(reference: Tensor, actual: Tensor, floor: OutputFloor): OutputParity {
    if (reference.shape != actual.shape) {
        throw PackException("output '${floor.name}' has shape ${actual.shape}, the student's ${reference.shape}", "build the pack again")
    }
    val (signal, given) = reference.numbers() to actual.numbers()
    val nonFinite = given.count { !it.isFinite() }
    if (nonFinite > 0) return OutputParity(floor.name, Double.NEGATIVE_INFINITY, Double.POSITIVE_INFINITY, 0.0, nonFinite, floor)
    val noise = DoubleArray(signal.size) { signal[it] - given[it] }
    return OutputParity(floor.name, sqnrDb(signal, noise), largest(noise), cosine(signal, given), 0, floor)
}

/** `10 log10(sum signal^2 / sum noise^2)`; scaled to 1 before squaring, so that neither 1e-200 nor 1e200 leaves the range. */
fun sqnrDb(signal: DoubleArray, noise: DoubleArray): Double {
    val scale = max(largest(signal), largest(noise))
    if (scale == 0.0 || largest(noise) == 0.0) return Double.POSITIVE_INFINITY
    return 10 * (log10(signal.sumOf { (it / scale) * (it / scale) }) - log10(noise.sumOf { (it / scale) * (it / scale) }))
}

/** Of the angle between two vectors; 1 for equal ones, 0 where one of two that differ is all zero. */
fun cosine(one: DoubleArray, other: DoubleArray): Double {
    if (one.contentEquals(other)) return 1.0
    val (a, b) = unit(one) to unit(other)
    return a.indices.sumOf { a[it] * b[it] }.coerceIn(-1.0, 1.0)
}

private fun largest(values: DoubleArray): Double = values.maxOf(::abs)

private fun unit(vector: DoubleArray): DoubleArray {
    val scale = largest(vector)
    if (scale == 0.0) return vector
    val length = sqrt(vector.sumOf { (it / scale) * (it / scale) })
    return DoubleArray(vector.size) { vector[it] / scale / length }
}
