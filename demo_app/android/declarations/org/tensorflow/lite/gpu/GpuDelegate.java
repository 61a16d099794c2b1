package org.tensorflow.lite.gpu;

public class GpuDelegate implements org.tensorflow.lite.Delegate {
    public GpuDelegate(GpuDelegateFactory.Options options) {}
    public GpuDelegate() {}
    public static class Options extends GpuDelegateFactory.Options {}
    public long getNativeHandle() { throw new RuntimeException(); }
    public void close() {}
}
