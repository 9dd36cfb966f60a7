package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/messagedb-go/messagedb/mdb"
)

// Exit statuses. The help explains them.
const (
	statusDone         = 0
	statusFailed       = 1
	statusUsage        = 2
	statusWrongVersion = 3
	statusNothing      = 4
	statusUnknown      = 5
	statusInterrupted  = 130 // as in shells: 128 + SIGINT
)

// An app is one run of the command.
type app struct {
	env            func(string) string
	stdin          io.Reader
	stdout, stderr io.Writer
	database       string // -d
	pooler         bool   // -pooler
}

// run runs the command and returns the exit status.
func run(ctx context.Context, args []string, env func(string) string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{env: env, stdin: stdin, stdout: stdout, stderr: stderr}
	err := a.run(ctx, args)
	status := statusOf(ctx, err)
	switch {
	case status == statusInterrupted:
		a.complain(errors.New("interrupted"))
	case err != nil:
		a.complain(err)
	}
	return status
}

func (a *app) run(ctx context.Context, args []string) error {
	for i, arg := range args {
		if !utf8.ValidString(arg) {
			return usage("argument %d is not valid UTF-8", i+1) // it may be a password
		}
	}
	fs := a.flags("mdb")
	version := fs.Bool("version", false, "print the version of mdb")
	if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		return a.help(nil)
	} else if err != nil {
		return explainFlag(fs, err)
	}
	if *version {
		return a.ownVersion()
	}
	if fs.NArg() == 0 {
		return usage("no command, want one of %s", strings.Join(commandNames(), ", "))
	}
	name, rest := fs.Arg(0), fs.Args()[1:]
	if name == "help" {
		return a.help(rest)
	}
	c, err := find(name)
	if err != nil {
		return err
	}
	fs = a.flags("mdb " + name)
	action := c.setup(fs)
	rest, err = parse(fs, rest)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return a.help([]string{name})
	case err == nil:
		err = action(ctx, a, rest)
	}
	if wrong := (*usageError)(nil); errors.As(err, &wrong) {
		wrong.command = name
	}
	return err
}

// complain prints an error to the standard error. It removes passwords, which the user
// may have typed in the wrong place.
func (a *app) complain(err error) {
	text := strings.TrimPrefix(strings.TrimPrefix(err.Error(), "mdb: "), "archive: ")
	_, _ = fmt.Fprintln(a.stderr, "mdb: "+redact(text)) // there is nowhere to report a failure
}

var secret = regexp.MustCompile(`(?i)(postgres(ql)?:|://).*@|password\s*=.*`)

func redact(text string) string {
	return secret.ReplaceAllString(text, "(connection string)")
}

func statusOf(ctx context.Context, err error) int {
	var (
		wrongVersion *mdb.WrongVersionError
		unknown      *mdb.UnknownOutcomeError
		argument     *mdb.ArgumentError
		wrong        *usageError
		nothing      *nothingError
	)
	switch {
	case err == nil:
		return statusDone
	case errors.As(err, &wrongVersion):
		return statusWrongVersion
	case errors.As(err, &unknown):
		return statusUnknown
	case errors.As(err, &argument), errors.As(err, &wrong):
		return statusUsage
	case errors.As(err, &nothing):
		return statusNothing
	case ctx.Err() != nil:
		return statusInterrupted
	}
	return statusFailed
}

// A usageError describes what is wrong with the arguments or the input.
type usageError struct {
	command string // the one whose help to see
	text    string
}

func usage(format string, args ...any) error {
	return &usageError{text: fmt.Sprintf(format, args...)}
}

func (e *usageError) Error() string {
	if e.command == "" {
		return e.text + `; see "mdb help"`
	}
	return fmt.Sprintf(`%s: %s; see "mdb help %s"`, e.command, e.text, e.command)
}

// A nothingError says that nothing was found.
type nothingError struct{ text string }

func nothing(format string, args ...any) error {
	return &nothingError{fmt.Sprintf(format, args...)}
}

func (e *nothingError) Error() string { return e.text }
