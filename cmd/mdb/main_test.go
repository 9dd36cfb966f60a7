// Package main_test runs the compiled command in a shell, on a real server, as its
// users do.
package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/messagedb-go/messagedb/internal/pgtest"
)

// program is the compiled command.
var program string

func TestMain(m *testing.M) {
	if os.Getenv(asMailer) != "" {
		runMailer(os.Args[1:])
		return
	}
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	folder, err := os.MkdirTemp("", "mdb-command-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(folder)
	program = filepath.Join(folder, "mdb")
	if err := pgtest.Build(folder, "."); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := writeMailer(filepath.Join(folder, "mailer")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}
