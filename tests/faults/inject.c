/* Runs a command and makes one of its system calls go wrong: the n-th that changes something below given folders.
 *
 * Owns: counting such calls over every thread and child of the command, and what happens to the one that is meant. It
 * counts in the order in which they are made, so that n = 1, 2, … until a run survives leaves none out.
 * Never: changes a call that was not meant, or reads what is written.
 * Rules: seccomp_unotify(2). strace cannot stand in: it counts for each thread apart and knows whole paths only, so the
 * temporary names of a publisher, or its second thread, stay out of its reach.
 *
 *   inject --report FILE [--below DIR]… [--program NAME] [--calls NAME,…] [--at N [--onwards]] [ACTION] -- COMMAND…
 *
 * ACTION: --kill process|group   the caller, or its whole process group, gets SIGKILL before the call
 *         --errno NUMBER         the call fails with it, and does nothing
 *         --pretend              the call says that it succeeded, and does nothing
 * Without --at every call is meant; without ACTION calls are only counted. --program: only calls of that executable.
 * The report has a line `N CALL PATH` for each call, with `!` after N for those that went wrong. The exit status is the
 * command's, or 128 + its signal; it comes once the last process that the command started has ended.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/fs.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Where a call's target is: a descriptor, a path, or a path below a descriptor; -1 where it has none. */
struct call {
	const char *name;
	int number, fd, path;
};

#define CALL(name, fd, path) {#name, __NR_##name, fd, path}
static const struct call calls[] = {
	CALL(write, 0, -1), CALL(pwrite64, 0, -1), CALL(writev, 0, -1), CALL(pwritev2, 0, -1), CALL(ftruncate, 0, -1),
	CALL(fallocate, 0, -1), CALL(copy_file_range, 2, -1), CALL(sendfile, 0, -1), CALL(ioctl, 0, -1), CALL(fsync, 0, -1),
	CALL(fdatasync, 0, -1), CALL(syncfs, 0, -1), CALL(fchmod, 0, -1), CALL(flock, 0, -1), CALL(openat, 0, 1), CALL(mkdirat, 0, 1),
	CALL(unlinkat, 0, 1), CALL(renameat2, 2, 3), CALL(linkat, 2, 3), CALL(symlinkat, 1, 2), CALL(fchmodat, 0, 1),
	CALL(truncate, -1, 0),
#ifdef __NR_open /* Older architectures have these as well. */
	CALL(open, -1, 0), CALL(creat, -1, 0), CALL(mkdir, -1, 0), CALL(unlink, -1, 0), CALL(rmdir, -1, 0),
	CALL(rename, -1, 1), CALL(link, -1, 1), CALL(symlink, -1, 1), CALL(chmod, -1, 0),
#endif
#ifdef __NR_renameat
	CALL(renameat, 2, 3),
#endif
};
enum { CALLS = sizeof calls / sizeof *calls, FOLDERS = 16, CHANGES = O_WRONLY | O_RDWR | O_CREAT | O_TRUNC };
enum action { COUNT, KILL_PROCESS, KILL_GROUP, FAIL, PRETEND };

static const char *below[FOLDERS], *program, *chosen;
static int belows;

static void die(const char *what)
{
	perror(what);
	exit(125);
}

/* Whether `name` is one of the comma-separated `chosen`; all are where nothing was chosen. */
static int is_chosen(const char *name)
{
	size_t length = strlen(name);
	if (!chosen)
		return 1;
	for (const char *at = chosen; (at = strstr(at, name)); at += length)
		if ((at == chosen || at[-1] == ',') && (at[length] == ',' || !at[length]))
			return 1;
	return 0;
}

/* From here on chosen calls of this process and its children wait for whoever holds the descriptor. */
static int install_filter(void)
{
	struct sock_filter code[4 * CALLS + 4];
	unsigned short at = 0;
	code[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	for (int i = 0; i < CALLS; i++) {
		/* What an ioctl asks, or how a file is opened, decides too; the rest always counts. */
		int number = calls[i].number, argument = number == __NR_ioctl ? 1 : number == __NR_openat ? 2 : -1;
		unsigned value = number == __NR_ioctl ? FICLONE : CHANGES;
		if (!is_chosen(calls[i].name))
			continue;
		code[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, argument < 0 ? 1 : 3);
		if (argument >= 0) {
			unsigned place = offsetof(struct seccomp_data, args) + 8 * argument;
			int test = number == __NR_ioctl ? BPF_JEQ : BPF_JSET;
			code[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, place);
			code[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | test | BPF_K, value, 0, 1);
		}
		code[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF);
		if (argument >= 0)
			code[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	}
	code[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	struct sock_fprog whole = {at, code};
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		die("no_new_privs");
	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &whole);
}

static void pass(int socket, int *descriptor, int sending)
{
	char byte = 0, space[CMSG_SPACE(sizeof(int))] = {0};
	struct iovec data = {&byte, 1};
	struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	if (sending) {
		memcpy(CMSG_DATA(header), descriptor, sizeof(int));
		if (sendmsg(socket, &message, 0) < 0)
			die("send the listener");
	} else {
		if (recvmsg(socket, &message, 0) != 1 || !CMSG_FIRSTHDR(&message))
			die("receive the listener");
		memcpy(descriptor, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int));
	}
}

/* What the link /proc/<pid>/<name> leads to. */
static int follow(int pid, const char *name, char *target)
{
	char link[64];
	snprintf(link, sizeof link, "/proc/%d/%s", pid, name);
	ssize_t length = readlink(link, target, PATH_MAX - 1);
	target[length < 0 ? 0 : length] = 0;
	return length > 0;
}

/* The absolute path that a call is about, symbolic links as they come. */
static void path_of(const struct call *call, const struct seccomp_notif *it, char *path)
{
	char text[PATH_MAX] = "", name[32];
	if (call->path >= 0) {
		char memory[64];
		snprintf(memory, sizeof memory, "/proc/%d/mem", it->pid);
		int file = open(memory, O_RDONLY | O_CLOEXEC);
		/* A path near the end of a mapping is read short. */
		if (file < 0 || pread(file, text, PATH_MAX - 1, it->data.args[call->path]) < 0)
			text[0] = 0;
		close(file);
		if (text[0] == '/') {
			strcpy(path, text);
			return;
		}
	}
	int descriptor = call->fd < 0 ? AT_FDCWD : (int)it->data.args[call->fd];
	snprintf(name, sizeof name, descriptor == AT_FDCWD ? "cwd" : "fd/%d", descriptor);
	follow(it->pid, name, path);
	if (text[0] && strlen(path) + strlen(text) + 2 < PATH_MAX)
		strcat(strcat(path, "/"), text);
}

static int counts(const struct seccomp_notif *it, const char *path)
{
	char executable[PATH_MAX];
	if (program) {
		const char *name = follow(it->pid, "exe", executable) ? strrchr(executable, '/') : NULL;
		if (!name || strcmp(name + 1, program))
			return 0;
	}
	for (int i = 0; i < belows; i++) {
		size_t length = strlen(below[i]);
		if (!strncmp(path, below[i], length) && (path[length] == '/' || !path[length]))
			return 1;
	}
	return !belows;
}

int main(int count, char **words)
{
	const char *report_path = NULL;
	unsigned long at = 0, seen = 0;
	int onwards = 0, error = 0;
	enum action action = COUNT;
	int word = 1;
	for (; word < count && strcmp(words[word], "--"); word++) {
		const char *option = words[word];
		if (!strcmp(option, "--onwards"))
			onwards = 1;
		else if (!strcmp(option, "--pretend"))
			action = PRETEND;
		else if (word + 1 == count)
			return fprintf(stderr, "inject: %s?\n", option), 2;
		else if (!strcmp(option, "--report"))
			report_path = words[++word];
		else if (!strcmp(option, "--below") && belows < FOLDERS)
			below[belows++] = words[++word];
		else if (!strcmp(option, "--program"))
			program = words[++word];
		else if (!strcmp(option, "--calls"))
			chosen = words[++word];
		else if (!strcmp(option, "--at"))
			at = strtoul(words[++word], NULL, 10);
		else if (!strcmp(option, "--kill"))
			action = strcmp(words[++word], "group") ? KILL_PROCESS : KILL_GROUP;
		else if (!strcmp(option, "--errno"))
			action = FAIL, error = atoi(words[++word]);
		else
			return fprintf(stderr, "inject: %s?\n", option), 2;
	}
	if (word + 1 >= count || !report_path)
		return fprintf(stderr, "inject: --report FILE and -- COMMAND are needed\n"), 2;
	FILE *report = fopen(report_path, "we");
	if (!report)
		die(report_path);
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		die("socketpair");
	pid_t child = fork();
	if (child < 0)
		die("fork");
	if (!child) {
		setpgid(0, 0); /* So that we outlive its group. */
		int listener = install_filter();
		if (listener < 0)
			die("seccomp");
		pass(pair[1], &listener, 1);
		execvp(words[word + 1], words + word + 1);
		die(words[word + 1]);
	}
	close(pair[1]);
	int listener;
	pass(pair[0], &listener, 0);
	/* Of a killed command its orphans remain; with the last of them the listener hangs up. */
	struct pollfd ready = {listener, POLLIN, 0};
	while (poll(&ready, 1, -1) >= 0 || errno == EINTR) {
		if (!(ready.revents & POLLIN)) {
			if (ready.revents)
				break;
			continue;
		}
		struct seccomp_notif it = {0};
		if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &it))
			continue; /* Killed while it waited for us. */
		struct seccomp_notif_resp answer = {.id = it.id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
		int i = 0;
		while (i < CALLS - 1 && calls[i].number != it.data.nr)
			i++;
		char path[2 * PATH_MAX] = "";
		path_of(&calls[i], &it, path);
		if (counts(&it, path)) {
			int meant = ++seen == at || !at || (onwards && seen > at);
			fprintf(report, "%lu%s %s %s\n", seen, meant && action != COUNT ? "!" : "", calls[i].name, path);
			if (meant && (action == KILL_PROCESS || action == KILL_GROUP))
				kill(action == KILL_GROUP ? -getpgid(it.pid) : (pid_t)it.pid, SIGKILL);
			if (meant && (action == FAIL || action == PRETEND)) {
				answer.flags = 0;
				answer.error = -error;
			}
		}
		/* Fails where the caller is dead already. */
		ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
	}
	fclose(report);
	int status;
	if (waitpid(child, &status, 0) < 0)
		die("waitpid");
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
