/* files/claim.h
 *
 * A folder that one run writes in is no other's meanwhile: two that did not know of each other would mix their
 * checkpoints and records.
 *
 * The claim is a socket's name on this machine, made of the folder's identity: it ends with the process, however that
 * ends, leaves nothing in the folder, and asks nothing of the folder's file system (locks of a network file system
 * outlive a node that fails, and would keep the run that is started again out of its own folder). Runs on two machines
 * are therefore not told of each other.
 */
#ifndef ZOODIP_FILES_CLAIM_H
#define ZOODIP_FILES_CLAIM_H

#include <stdbool.h>

#include "base/error.h"

struct claim {
    bool held;
    int socket;
    int folder; /* open, so that no other folder gets its identity */
};

/* Claims a folder that is there; waits up to `patience` seconds for a process that is about to end. ERROR_FAILED names
 * the folder where it is another's. Where the machine has no such sockets, the claim holds nothing. */
struct error claim_folder(struct claim *claim, const char *folder, double patience);

/* Also of a claim that is all zero, or was given up before. */
void claim_release(struct claim *claim);

#endif
