package android.os;

public final class PowerManager {
    public boolean isPowerSaveMode() { throw new RuntimeException(); }
    public int getCurrentThermalStatus() { throw new RuntimeException(); }
    public void addThermalStatusListener(java.util.concurrent.Executor executor, OnThermalStatusChangedListener listener) {}
    public void removeThermalStatusListener(OnThermalStatusChangedListener listener) {}
    public interface OnThermalStatusChangedListener {
        void onThermalStatusChanged(int status);
    }
}
