package dev.edgepack.core

import java.io.FileNotFoundException
import org.json.JSONArray
import org.json.JSONObject

/** Files that `fixtures.py` wrote, with numbers that edgepack computed. */
object Expected {
    val json: JSONObject by lazy { JSONObject(String(resource("expected.json").use { it.readBytes() })) }
    val pack: Pack by lazy { Pack.open { path -> resource("pack/$path") } }
    val answers: Map<String, Tensor> by lazy { readNpz(resource("answers.npz")) }

    fun artifact(scheme: String): Artifact = pack.artifacts.first { it.scheme == scheme }

    fun resource(path: String) = javaClass.classLoader.getResourceAsStream(path) ?: throw FileNotFoundException(path)
}

fun JSONArray.objects(): List<JSONObject> = List(length(), ::getJSONObject)

fun JSONArray.doubles(): DoubleArray = DoubleArray(length(), ::getDouble)

fun JSONArray.longs(): LongArray = LongArray(length(), ::getLong)

fun JSONObject.keyNames(): List<String> = keys().asSequence().toList()

fun Tensor.bytes(): ByteArray = ByteArray(data.capacity()).also { data.duplicate().apply { rewind() }.get(it) }
