package org.tensorflow.lite.gpu;

public class CompatibilityList implements java.io.Closeable {
    public CompatibilityList() {}
    public boolean isDelegateSupportedOnThisDevice() { throw new RuntimeException(); }
    public GpuDelegate.Options getBestOptionsForThisDevice() { throw new RuntimeException(); }
    public void close() {}
}
