package android.view;

public class View {
    public static final int GONE = 8;
    public View(android.content.Context context) {}
    public void setVisibility(int visibility) {}
    public void setEnabled(boolean enabled) {}
    public boolean isEnabled() { throw new RuntimeException(); }
    public void setFitsSystemWindows(boolean fitSystemWindows) {}
    public boolean getFitsSystemWindows() { throw new RuntimeException(); }
    public int getVisibility() { throw new RuntimeException(); }
    public void setOnClickListener(OnClickListener l) {}
    public interface OnClickListener {
        void onClick(View v);
    }
}
