package dev.edgepack.core

import kotlin.math.abs
import kotlin.math.exp

/** A class and its share of 1. */
data class Likely(val label: String, val share: Double)

/** The likeliest classes of a row of scores, the largest first; of equals the first. Empty where the output names no classes. */
fun likeliest(output: Tensor, labels: List<String>, count: Int = 3): List<Likely> {
    val classes = if (labels.isEmpty()) output.shape.last() else labels.size
    if (output.size != classes || classes < 2) return emptyList()
    val shares = probabilities(output.numbers())
    return shares.indices.sortedByDescending { shares[it] }.take(count).map { Likely(labels.getOrElse(it) { index -> "class $index" }, shares[it]) }
}

/** As they are when they are a distribution already, else by softmax; as `edgepack.verify.metrics.probabilities`. */
fun probabilities(scores: DoubleArray): DoubleArray {
    // An int8 softmax has steps of 1/256: each class may be half of one off.
    val slack = 1e-2 + scores.size / 512.0
    if (scores.min() >= 0 && scores.max() <= 1.01 && abs(scores.sum() - 1) < slack) return scores
    val powers = scores.max().let { largest -> DoubleArray(scores.size) { exp(scores[it] - largest) } }
    return powers.sum().let { sum -> DoubleArray(powers.size) { powers[it] / sum } }
}
