package androidx.camera.core;

public final class Preview extends UseCase {
    public void setSurfaceProvider(SurfaceProvider surfaceProvider) {}
    public interface SurfaceProvider {}
    public static final class Builder {
        public Builder() {}
        public Preview build() { throw new RuntimeException(); }
    }
}
