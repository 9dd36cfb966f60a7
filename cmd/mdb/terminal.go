package main

import (
	"fmt"
	"io"
	"os"
)

// isTerminal reports whether an input or output is a terminal.
func isTerminal(stream any) bool {
	file, ok := stream.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull) // a character device as well
	return err != nil || !os.SameFile(info, null)
}

// sayItWaits says so to the user if the input is a terminal.
func (a *app) sayItWaits(input io.Reader) {
	if isTerminal(input) {
		_, _ = fmt.Fprintln(a.stderr, "mdb: reading from the terminal; Ctrl-D at the beginning of a line ends the input")
	}
}
