package androidx.camera.view;

public final class PreviewView extends android.widget.FrameLayout {
    public PreviewView(android.content.Context context) {
        super(context);
    }
    public androidx.camera.core.Preview.SurfaceProvider getSurfaceProvider() { throw new RuntimeException(); }
}
