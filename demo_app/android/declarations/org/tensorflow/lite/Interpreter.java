package org.tensorflow.lite;

public final class Interpreter implements AutoCloseable {
    public Interpreter(java.nio.ByteBuffer byteBuffer, Options options) {}
    public void runSignature(java.util.Map<String, Object> inputs, java.util.Map<String, Object> outputs, String signatureKey) {}
    public Tensor getInputTensorFromSignature(String inputName, String signatureKey) { throw new RuntimeException(); }
    public Tensor getOutputTensorFromSignature(String outputName, String signatureKey) { throw new RuntimeException(); }
    public String[] getSignatureInputs(String signatureKey) { throw new RuntimeException(); }
    public String[] getSignatureOutputs(String signatureKey) { throw new RuntimeException(); }
    public void close() {}
    public static class Options {
        public Options() {}
        public Options setNumThreads(int numThreads) { throw new RuntimeException(); }
        public Options addDelegate(Delegate delegate) { throw new RuntimeException(); }
    }
}
