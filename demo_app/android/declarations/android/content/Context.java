package android.content;

public abstract class Context {
    public static final String ACTIVITY_SERVICE = "activity";
    public static final String POWER_SERVICE = "power";
    public Object getSystemService(String name) { throw new RuntimeException(); }
    public String getPackageName() { throw new RuntimeException(); }
    public android.content.pm.PackageManager getPackageManager() { throw new RuntimeException(); }
    public android.content.pm.ApplicationInfo getApplicationInfo() { throw new RuntimeException(); }
    public android.content.res.AssetManager getAssets() { throw new RuntimeException(); }
    public android.content.res.Resources getResources() { throw new RuntimeException(); }
}
