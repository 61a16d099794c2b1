package dev.edgepack.core

import java.nio.ByteBuffer

/**
 * Visits a real `edgepack serve` with answers that LiteRT gave elsewhere: the address, the fingerprint, then SCHEME=SHA256 of each artifact,
 * and "wrong" to answer wrongly. Prints what the server said, and how many measurements it kept.
 */
fun main(arguments: Array<String>) {
    val (address, fingerprint) = arguments
    val schemes = arguments.drop(2).filter { '=' in it }.associate { it.substringAfter('=') to it.substringBefore('=') }
    val phone = Phone("dev.edgepack.test 1.0", "Test Phone", "Android 16", "arm64-v8a", virtual = true, debug = false, cores = 8, memoryGib = 7.5)
    val server = Server.open(address, fingerprint)
    val watch = { Watch { Conditions(hidden = false, thermalStatus = 0, batterySaver = false) } }
    println("kept ${Visit(server, Elsewhere(schemes, "wrong" in arguments), phone, System::nanoTime, watch, Printed).run()}")
}

private class Elsewhere(private val schemes: Map<String, String>, private val isWrong: Boolean) : Runtime {
    override val runner = "litert"
    override val version = "2.3.0"
    override val units = listOf("cpu")

    override fun open(model: ByteBuffer, threads: Int, unit: String): Session {
        check(unit in units)
        val scheme = schemes.getValue(sha256(ByteArray(model.capacity()).also(model::get)))
        val answers = Expected.answers.getValue(scheme)
        return Recorded("image", "logits", if (isWrong) doubled(answers) else answers)
    }

    private fun doubled(held: Tensor) = Tensor.floats(held.shape, FloatArray(held.size) { 2 * held.number(it).toFloat() })
}

private object Printed : Listener {
    override fun started(step: String) = println("started $step")

    override fun progress(share: Double) = Unit

    override fun judged(words: String) = println(words)
}
