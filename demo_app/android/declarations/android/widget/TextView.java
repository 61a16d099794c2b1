package android.widget;

public class TextView extends android.view.View {
    public TextView(android.content.Context context) {
        super(context);
    }
    public CharSequence getText() { throw new RuntimeException(); }
    public final void setText(CharSequence text) {}
    public void setTextSize(float size) {}
    public float getTextSize() { throw new RuntimeException(); }
    public final void append(CharSequence text) {}
    public CharSequence getHint() { throw new RuntimeException(); }
    public final void setHint(CharSequence hint) {}
}
