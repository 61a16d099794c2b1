package dev.edgepack.core

import kotlin.test.Test
import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith

class TensorTest {
    private val counted = Tensor.floats(listOf(2, 3, 4), FloatArray(24) { it.toFloat() })

    @Test
    fun `a permutation moves each number to where numpy puts it`() {
        // numpy.arange(24).reshape(2, 3, 4).transpose(2, 0, 1).ravel()
        val wanted = intArrayOf(0, 4, 8, 12, 16, 20, 1, 5, 9, 13, 17, 21, 2, 6, 10, 14, 18, 22, 3, 7, 11, 15, 19, 23)
        val moved = counted.transposed(listOf(2, 0, 1))
        assertEquals(listOf(4, 2, 3), moved.shape)
        assertContentEquals(DoubleArray(24) { wanted[it].toDouble() }, moved.numbers())
        assertContentEquals(counted.bytes(), moved.transposed(listOf(2, 0, 1).inverse()).bytes())
    }

    @Test
    fun `samples that are taken apart and stacked again are the same`() {
        val again = Tensor.stacked(List(2, counted::sample))
        assertEquals(counted.shape, again.shape)
        assertContentEquals(counted.bytes(), again.bytes())
        assertEquals(12.0, counted.sample(1).number(0))
    }

    @Test
    fun `integers are cast to a narrower type only where they fit`() {
        val wide = Tensor(Dtype.INT64, listOf(2), directBuffer(16).putLong(0, -7).putLong(8, 300))
        assertContentEquals(doubleArrayOf(-7.0, 300.0), wide.cast(Dtype.INT32).numbers())
        assertFailsWith<PackException> { wide.cast(Dtype.INT8) }
        assertFailsWith<PackException> { wide.cast(Dtype.UINT8) }
    }

    @Test
    fun `unsigned numbers are read as such`() {
        assertEquals(200.0, Tensor(Dtype.UINT8, listOf(1), directBuffer(1).put(0, 200.toByte())).number(0))
        assertEquals(4294967295.0, Tensor(Dtype.UINT32, listOf(1), directBuffer(4).putInt(0, -1)).number(0))
    }
}
