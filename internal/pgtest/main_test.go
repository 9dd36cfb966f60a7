//go:build unix && !aix && !solaris

package pgtest

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// childMode is the environment variable that makes this test binary a child process
// whose end a test observes.
const childMode = "MDB_PGTEST_CHILD"

func TestMain(m *testing.M) {
	switch mode := os.Getenv(childMode); mode {
	case "":
	case "nowhere":
		usualPlaces = nil
	default:
		child(mode)
		return
	}

	os.Exit(m.Run())
}

// child starts a server, prints its folder, watchdog and URL, waits until standard
// input is closed, and then ends as its mode says.
func child(mode string) {
	s, err := Start(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if mode == "frozen" {
		if err := s.Freeze(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	fmt.Println(s.process.dir, s.process.pid, s.TCP("postgres"))
	_, _ = io.ReadAll(os.Stdin)

	switch mode {
	case "return":
	case "exit":
		os.Exit(3)
	case "panic":
		panic("the child panics as its mode says")
	case "hang", "frozen":
		select {}
	}
}

// command returns a command that runs this test binary with env added to its
// environment.
func command(t *testing.T, args []string, env ...string) *exec.Cmd {
	t.Helper()

	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, args...)
	cmd.Env = append(os.Environ(), env...)

	return cmd
}

// eventually waits until done returns true. It polls, because a watchdog does not
// signal that it has finished.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()

	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()

	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("timed out waiting until %s", what)
		}
	}
}

func lines(s string) []string {
	return strings.Split(strings.TrimSpace(s), "\n")
}
