package dev.edgepack.core

import java.io.DataInputStream
import java.io.InputStream
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.util.zip.ZipInputStream

private const val SUFFIX = ".npy"
private val MAGIC = byteArrayOf(0x93.toByte()) + "NUMPY".toByteArray()

/** Named arrays, as `numpy.savez` writes them (numpy.lib.format, versions 1 to 3); closes [stream]. */
fun readNpz(stream: InputStream): Map<String, Tensor> = ZipInputStream(stream).use { zip ->
    generateSequence { zip.nextEntry }.associate { it.name.removeSuffix(SUFFIX) to readNpy(zip) }
}

private fun readNpy(stream: InputStream): Tensor {
    val input = DataInputStream(stream)
    val start = ByteArray(MAGIC.size + 2).also(input::readFully)
    if (!start.copyOf(MAGIC.size).contentEquals(MAGIC)) throw PackException("an array of the pack is no .npy file", "copy the pack again")
    val header = String(ByteArray(headerLength(input, start[MAGIC.size].toInt())).also(input::readFully), Charsets.UTF_8)
    if (field(header, "fortran_order") != "False") throw PackException("an array of the pack is in Fortran order", "build the pack again")
    val dtype = dtypeOf(field(header, "descr"))
    val shape = field(header, "shape").trim('(', ')').split(',').map(String::trim).filter(String::isNotEmpty).map(String::toInt)
    val data = directBuffer(dtype.bytes * shape.product())
    val bytes = ByteArray(data.capacity()).also(input::readFully)
    return Tensor(dtype, shape, data.apply { put(bytes) }.apply { rewind() })
}

private fun headerLength(input: DataInputStream, version: Int): Int {
    val bytes = ByteArray(if (version == 1) 2 else 4).also(input::readFully)
    val little = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN)
    return if (version == 1) little.getShort().toInt() and 0xffff else little.getInt()
}

/** A value of the header, a Python dict of literals: `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`. */
private fun field(header: String, name: String): String {
    val found = Regex("'$name':\\s*('[^']*'|\\([^)]*\\)|\\w+)").find(header)
    return found?.groupValues?.get(1)?.trim('\'') ?: throw PackException("an array of the pack has no $name in its header", "copy the pack again")
}

private fun dtypeOf(code: String): Dtype =
    Dtype.entries.find { it.code == code } ?: throw PackException("an array of the pack has elements of type $code", "build the pack again")
