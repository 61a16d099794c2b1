package dev.edgepack.core

import java.nio.ByteBuffer
import java.nio.ByteOrder

/** Element types by numpy's names, with numpy's codes in .npy files. */
enum class Dtype(val numpyName: String, val code: String, val bytes: Int) {
    FLOAT32("float32", "<f4", 4),
    FLOAT64("float64", "<f8", 8),
    INT8("int8", "|i1", 1),
    UINT8("uint8", "|u1", 1),
    INT16("int16", "<i2", 2),
    UINT16("uint16", "<u2", 2),
    INT32("int32", "<i4", 4),
    UINT32("uint32", "<u4", 4),
    INT64("int64", "<i8", 8),
    BOOL("bool", "|b1", 1);

    companion object {
        /** PackException where the pack names a type that no artifact takes. */
        fun named(name: String): Dtype =
            entries.find { it.numpyName == name } ?: throw PackException("tensors of type $name are not known here", "use another scheme")
    }
}

/**
 * A dense tensor, C order.
 *
 * @property data direct and little-endian, as every Android ABI is; position 0, limit at its end. Runtimes take it as it is.
 */
class Tensor(val dtype: Dtype, val shape: List<Int>, val data: ByteBuffer) {
    init {
        require(data.capacity() == dtype.bytes * shape.product()) { "${data.capacity()} bytes are not a ${dtype.numpyName} tensor of $shape" }
        data.order(ByteOrder.LITTLE_ENDIAN)
    }

    val size: Int get() = shape.product()

    /** Element [index] in C order; 64-bit integers above 2^53 are rounded, booleans are 0 and 1. */
    fun number(index: Int): Double = when (dtype) {
        Dtype.FLOAT32 -> data.getFloat(4 * index).toDouble()
        Dtype.FLOAT64 -> data.getDouble(8 * index)
        Dtype.INT8 -> data.get(index).toDouble()
        Dtype.UINT8, Dtype.BOOL -> (data.get(index).toInt() and 0xff).toDouble()
        Dtype.INT16 -> data.getShort(2 * index).toDouble()
        Dtype.UINT16 -> (data.getShort(2 * index).toInt() and 0xffff).toDouble()
        Dtype.INT32 -> data.getInt(4 * index).toDouble()
        Dtype.UINT32 -> (data.getInt(4 * index).toLong() and 0xffffffffL).toDouble()
        Dtype.INT64 -> data.getLong(8 * index).toDouble()
    }

    fun numbers(): DoubleArray = DoubleArray(size, ::number)

    /** One of the samples that are stacked on the first axis. */
    fun sample(index: Int): Tensor {
        val rest = shape.drop(1)
        val bytes = dtype.bytes * rest.product()
        return Tensor(dtype, rest, directCopy(data, index * bytes, bytes))
    }

    /** numpy's transpose, as a copy; an empty [permutation] changes nothing. */
    fun transposed(permutation: List<Int>): Tensor {
        if (permutation.isEmpty()) return this
        val steps = permutation.map { axis -> shape.drop(axis + 1).product() }
        val result = Tensor(dtype, permutation.map { shape[it] }, directBuffer(data.capacity()))
        val index = IntArray(steps.size)
        var from = 0
        for (at in 0 until size) {
            for (byte in 0 until dtype.bytes) result.data.put(at * dtype.bytes + byte, data.get(from * dtype.bytes + byte))
            from += step(index, result.shape, steps)
        }
        return result
    }

    /** The same integers in another width, as golden samples of int64 for an artifact of int32; floats keep their type. */
    fun cast(to: Dtype): Tensor {
        if (to == dtype) return this
        val result = Tensor(to, shape, directBuffer(to.bytes * size))
        for (index in 0 until size) result.set(index, number(index))
        if ((0 until size).any { result.number(it) != number(it) } && dtype.isInteger) {
            throw PackException("an input holds ${dtype.numpyName} numbers that ${to.numpyName} cannot", "use an artifact of another target")
        }
        return result
    }

    private fun set(index: Int, value: Double) {
        when (dtype) {
            Dtype.FLOAT32 -> data.putFloat(4 * index, value.toFloat())
            Dtype.FLOAT64 -> data.putDouble(8 * index, value)
            Dtype.INT8, Dtype.UINT8, Dtype.BOOL -> data.put(index, value.toInt().toByte())
            Dtype.INT16, Dtype.UINT16 -> data.putShort(2 * index, value.toInt().toShort())
            Dtype.INT32, Dtype.UINT32 -> data.putInt(4 * index, value.toLong().toInt())
            Dtype.INT64 -> data.putLong(8 * index, value.toLong())
        }
    }

    companion object {
        /** Samples of one shape and type, one after the other on a new first axis. */
        fun stacked(samples: List<Tensor>): Tensor {
            val first = samples.first()
            val joined = directBuffer(samples.sumOf { it.data.capacity() })
            samples.forEach { joined.put(it.data.duplicate().apply { rewind() }) }
            joined.rewind()
            return Tensor(first.dtype, listOf(samples.size) + first.shape, joined)
        }

        fun floats(shape: List<Int>, values: FloatArray): Tensor {
            val data = directBuffer(4 * values.size)
            values.forEachIndexed { index, value -> data.putFloat(4 * index, value) }
            return Tensor(Dtype.FLOAT32, shape, data)
        }
    }
}

val Dtype.isInteger: Boolean get() = this != Dtype.FLOAT32 && this != Dtype.FLOAT64

fun List<Int>.product(): Int = fold(1, Int::times)

fun directBuffer(bytes: Int): ByteBuffer = ByteBuffer.allocateDirect(bytes).order(ByteOrder.LITTLE_ENDIAN)

/** The axis that a permutation puts where: its inverse undoes it. */
fun List<Int>.inverse(): List<Int> = indices.map(::indexOf)

private fun directCopy(source: ByteBuffer, from: Int, bytes: Int): ByteBuffer {
    val part = source.duplicate().apply { limit(from + bytes).position(from) }
    return directBuffer(bytes).apply { put(part) }.apply { rewind() }
}

/** Counts [index] on by one, as digits of [shape]; how far that moves in an array with these [steps]. */
private fun step(index: IntArray, shape: List<Int>, steps: List<Int>): Int {
    var moved = 0
    for (axis in shape.indices.reversed()) {
        index[axis]++
        moved += steps[axis]
        if (index[axis] < shape[axis]) break
        moved -= shape[axis] * steps[axis]
        index[axis] = 0
    }
    return moved
}
