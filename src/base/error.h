/* base/error.h
 *
 * Errors are values. A function that can fail returns `struct error`; code 0 means that all went well. The value
 * travels up unchanged (or with the name of a file or key put before it) to the one place that prints it: main on rank
 * 0.
 *
 * The codes are the program's exit codes, so the place that makes an error decides what the shell sees.
 */
#ifndef ZOODIP_BASE_ERROR_H
#define ZOODIP_BASE_ERROR_H

#include <stdbool.h>

enum {
    ERROR_NONE = 0,
    ERROR_FAILED = 1,     /* the machine's fault: memory, disk, a peer that died */
    ERROR_BAD_INPUT = 2,  /* the user's file, key or argument; found before any work starts */
    ERROR_PREEMPTED = 75, /* EX_TEMPFAIL: checkpointed after a signal, run it again */
};

struct error {
    int code;
    char text[504]; /* one line, no newline, no "zoodip:" before it */
    int cause;      /* the errno that error_errno was called with; else 0 */
};

struct error ok(void);

/* printf-like; the text is cut at the field's size. Control characters and bytes that are not UTF-8 are shown as '?',
 * so that a hostile name in a file can neither drive the reader's terminal nor break a summary's JSON. */
__attribute__((format(printf, 1, 2))) struct error error_failed(const char *format, ...);
__attribute__((format(printf, 1, 2))) struct error error_input(const char *format, ...);

/* "PREFIX: text", same code and cause. A code of 0 passes unchanged. */
__attribute__((format(printf, 2, 3))) struct error error_in(struct error e, const char *format, ...);

/* "PATH: cannot WHAT: strerror(errno)". error_errno: ERROR_FAILED whatever the reason, for what the program makes
 * itself. error_path: for a path that the user named; ERROR_BAD_INPUT if it names nothing, another kind of file, or what
 * the user may not read; else ERROR_FAILED, such as a network disk that does not answer. */
struct error error_errno(const char *what, const char *path);
struct error error_path(const char *what, const char *path);

/* Whether a disk had no room left, or the user's share of it: something that may pass. */
bool error_is_full_disk(struct error e);

struct error error_memory(const char *what);
struct error error_preempted(const char *text);

/* The first of two that is an error, else ok. */
struct error error_first(struct error a, struct error b);

/* Returns the error of a call from the enclosing function; only where there is nothing to release. */
#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        struct error try_error = (call);                                                                               \
        if (try_error.code != ERROR_NONE)                                                                              \
            return try_error;                                                                                          \
    } while (0)

#endif
