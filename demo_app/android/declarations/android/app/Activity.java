package android.app;

public class Activity extends android.content.Context {
    protected void onCreate(android.os.Bundle savedInstanceState) {}
    protected void onPause() {}
    protected void onDestroy() {}
    public void setContentView(android.view.View view) {}
    public android.view.Window getWindow() { throw new RuntimeException(); }
    public final void runOnUiThread(Runnable action) {}
}
