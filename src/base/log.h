/* base/log.h
 *
 * Lines for people, on stderr, each begun with "zoodip: ". Control characters are shown as '?'. Rank 0 speaks for all:
 * callers on other ranks stay silent.
 */
#ifndef ZOODIP_BASE_LOG_H
#define ZOODIP_BASE_LOG_H

__attribute__((format(printf, 1, 2))) void log_line(const char *format, ...);
__attribute__((format(printf, 1, 2))) void log_warning(const char *format, ...); /* "zoodip: warning: ..." */

/* The same for a finished text, and one that drops it: for callbacks. */
void log_warning_text(const char *text);
void log_nothing(const char *text);

#endif
