/* Holding the device: its lock and a folder for one session, until the connection ends however it ends. */
#ifndef EDGEPACK_HOLD_H
#define EDGEPACK_HOLD_H

/* Waits up to seconds for the lock in place, makes a folder, says so, and removes it when standard input ends. An exit code.
 *
 * A network that is lost tells nobody: the other side says now and then that it is there, and after silence seconds without a word it
 * is taken to be gone. 0: it need not say anything.
 */
int hold(const char *place, double seconds, double silence);

/* Prints the three clocks of the device as JSON: the day's, the one that stops in sleep, the one that does not. */
int print_clocks(void);

/* Leaves when standard input ends, or is silent for so long: the connection is gone. */
void leave_with_connection(double silence);

#endif
