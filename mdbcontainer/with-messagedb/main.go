// The command with-messagedb starts Message DB in a container and runs another command:
//
//	with-messagedb [-image postgres:17] [-notify] [-setting NAME=VALUE]... [-tmpfs DIR] -- COMMAND [ARGUMENT]...
//
// It sets MDB_TEST_DATABASE_URL, which package mdbtest reads, to the URL of the database
// with a superuser. When the command ends, it removes the container.
//
// The exit status is that of the command. It is 125 if the container cannot be started,
// 126 if the command cannot be run, and 2 for wrong usage.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"strings"
	"syscall"

	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/log"

	"github.com/messagedb-go/messagedb/mdbcontainer"
)

const (
	statusUsage       = 2
	statusNoContainer = 125
	statusNotRun      = 126
)

func main() {
	os.Exit(run(os.Args[1:]))
}

func run(args []string) (status int) {
	flags := flag.NewFlagSet("with-messagedb", flag.ContinueOnError)
	flags.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: with-messagedb [flags] -- COMMAND [ARGUMENT]...")
		flags.PrintDefaults()
	}
	image := flags.String("image", "postgres:17", "an `IMAGE` of PostgreSQL 14 to 18")
	notify := flags.Bool("notify", false, "install the NOTIFY trigger")
	var opts []testcontainers.ContainerCustomizer
	flags.Func("setting", "set a parameter of the server, `NAME=VALUE`; can be repeated", func(s string) error {
		name, value, ok := strings.Cut(s, "=")
		if !ok {
			return errors.New("want NAME=VALUE")
		}
		opts = append(opts, mdbcontainer.WithSetting(name, value))
		return nil
	})
	flags.Func("tmpfs", "keep the folder `DIR` of the container in memory, where PostgreSQL's files make tests faster", func(dir string) error {
		if !path.IsAbs(dir) {
			return errors.New("want an absolute path")
		}
		opts = append(opts, testcontainers.WithTmpfs(map[string]string{dir: "rw"}))
		return nil
	})
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return statusUsage
	}
	if flags.NArg() == 0 {
		flags.Usage()
		return statusUsage
	}
	if *notify {
		opts = append(opts, mdbcontainer.WithNotify())
	}

	log.SetDefault(log.NewNoopLogger()) // its log would mix with the output of the command
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	container, err := mdbcontainer.Run(ctx, *image, opts...)
	if err != nil {
		fmt.Fprintln(os.Stderr, "with-messagedb:", err)
		return statusNoContainer
	}
	defer func() {
		if err := container.Terminate(context.WithoutCancel(ctx)); err != nil {
			fmt.Fprintln(os.Stderr, "with-messagedb: remove the container:", err)
			status = max(status, 1)
		}
	}()
	address, err := container.ConnectionString(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "with-messagedb:", err)
		return statusNoContainer
	}
	return command(ctx, address, flags.Args())
}

// command runs the command and waits until it ends, even if ctx ends, which sends it
// SIGTERM.
func command(ctx context.Context, address string, args []string) int {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...) //nolint:gosec // its purpose is to run the given command
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), "MDB_TEST_DATABASE_URL="+address)
	err := cmd.Run()
	var failed *exec.ExitError
	switch {
	case errors.As(err, &failed) && failed.ExitCode() >= 0:
		return failed.ExitCode()
	case errors.As(err, &failed): // by a signal
		return 128 + int(failed.Sys().(syscall.WaitStatus).Signal())
	case err != nil && cmd.ProcessState == nil:
		fmt.Fprintln(os.Stderr, "with-messagedb:", err)
		return statusNotRun
	}
	return 0
}
