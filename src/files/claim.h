/* files/claim.h
 *
 * Only one run at a time may write in a folder: two runs unaware of each other would mix their checkpoints and records.
 *
 * The claim is a socket's name on this machine, derived from the folder's identity: it ends with the process, however
 * that ends, leaves nothing in the folder, and needs nothing from its file system (locks of a network file system
 * outlive a failed node, and would keep a restarted run out of its own folder). So runs on two machines do not notice
 * each other.
 */
#ifndef ZOODIP_FILES_CLAIM_H
#define ZOODIP_FILES_CLAIM_H

#include <stdbool.h>

#include "base/error.h"

struct claim {
    bool held;
    int socket; /* private, as is the folder */
    int folder; /* kept open, so that no other folder gets its identity */
};

/* Claims an existing folder; waits up to `timeout` seconds for a process that is about to end. ERROR_FAILED names the
 * folder if another run has it. On a machine without such sockets, the claim protects nothing. */
struct error claim_folder(struct claim *claim, const char *folder, double timeout);

/* Before something is written into the folder by its path: ERROR_FAILED if PATH now leads to another folder, as when a
 * link has taken its place. A claim that is not held has nothing against it. */
struct error claim_check(const struct claim *claim, const char *path);

/* Also allowed for a claim that is all zero, or was released before. */
void claim_release(struct claim *claim);

#endif
