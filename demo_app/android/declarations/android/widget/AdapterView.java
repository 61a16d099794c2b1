package android.widget;

public abstract class AdapterView<T extends Adapter> extends android.view.ViewGroup {
    public AdapterView(android.content.Context context) {
        super(context);
    }
    public abstract T getAdapter();
    public abstract void setAdapter(T adapter);
    public int getSelectedItemPosition() { throw new RuntimeException(); }
}
