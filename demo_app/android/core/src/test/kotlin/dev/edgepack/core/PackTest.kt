package dev.edgepack.core

import java.io.ByteArrayInputStream
import kotlin.test.Test
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue

class PackTest {
    @Test
    fun `a pack is read with its student, labels, preprocessing and artifacts`() {
        val pack = Expected.pack
        assertEquals("digits", pack.student)
        assertEquals((0..9).map(Int::toString), pack.labels)
        assertEquals(Triple(28, 28, 1), pack.preprocessing?.let { Triple(it.height, it.width, it.channels) })
        assertEquals(listOf("fp32", "w8a8"), pack.runnable(setOf("litert")).map { it.scheme })
        assertEquals(emptyList(), pack.runnable(setOf("ort")))
    }

    @Test
    fun `golden inputs in an artifact's layout are those of Python bit for bit`() {
        val feeds = Expected.json.getJSONObject("feed")
        for (scheme in feeds.keyNames()) {
            val feed = artifactFeed(Expected.pack.goldenInputs(), Expected.artifact(scheme).inputs)
            assertEquals(feeds.getJSONObject(scheme).keyNames(), feed.keys.toList())
            for ((name, tensor) in feed) assertEquals(feeds.getJSONObject(scheme).getString(name), sha256(tensor.bytes()))
            assertEquals(listOf(16, 1, 28, 28, 1), feed.getValue("image").shape)
        }
    }

    @Test
    fun `a file that changed since it was verified is refused by name`() {
        val damaged = Pack.open { path -> Expected.resource("pack/$path").let { if ("golden" in path) ByteArrayInputStream(it.readBytes() + 0) else it } }
        assertTrue("golden/inputs.npz is not the file that was verified" in assertFailsWith<PackException> { damaged.goldenInputs() }.message!!)
    }

    @Test
    fun `a manifest of another schema or none is refused`() {
        fun opened(text: String) = assertFailsWith<PackException> { Pack.open { text.byteInputStream() } }.message!!
        assertTrue("has schema 99, this app reads 1" in opened("""{"schema": 99}"""))
        assertTrue("cannot be read" in opened("""{"schema": 1}"""))
        assertTrue("cannot be read" in opened("not JSON"))
    }

    @Test
    fun `an array of a type that no artifact has is refused`() {
        assertTrue("complex64" in assertFailsWith<PackException> { Dtype.named("complex64") }.message!!)
    }
}
