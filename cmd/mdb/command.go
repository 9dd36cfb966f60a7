package main

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"strings"
)

// A command is one of those of mdb.
type command struct {
	name     string
	args     []string // each way to call it, without the options
	short    string
	long     string
	examples string
	// setup declares the options, and returns what is done with them.
	setup func(fs *flag.FlagSet) action
}

type action func(ctx context.Context, a *app, args []string) error

func commands() []command {
	return []command{
		installCommand, notifyCommand, checkCommand, versionCommand,
		writeCommand, readCommand, tailCommand, lastCommand,
		streamsCommand, categoriesCommand, typesCommand,
	}
}

func commandNames() []string {
	var names []string
	for _, c := range commands() {
		names = append(names, c.name)
	}
	return names
}

func find(name string) (command, error) {
	all := commands()
	i := slices.IndexFunc(all, func(c command) bool { return c.name == name })
	if i < 0 {
		return command{}, usage("given the command %q, want one of %s", name, strings.Join(commandNames(), ", "))
	}
	return all[i], nil
}

// help prints what was asked for, and so to the output.
func (a *app) help(args []string) error {
	name, err := atMostOne(args, "command")
	switch {
	case err != nil:
		return err
	case name == "":
		return a.say("%s", overview())
	}
	c, err := find(name)
	if err != nil {
		return err
	}
	return a.say("%s", c.help())
}

func (c command) help() string {
	var b strings.Builder
	for i, args := range c.args {
		lead := "Usage: "
		if i > 0 {
			lead = "       "
		}
		fmt.Fprintln(&b, strings.TrimRight(lead+"mdb "+c.name+" [options] "+args, " "))
	}
	fmt.Fprintf(&b, "\n%s\n\nOptions:\n", c.long)
	fs := new(app).flags(c.name)
	c.setup(fs)
	options := ""
	fs.VisitAll(func(f *flag.Flag) {
		value, text := flag.UnquoteUsage(f)
		if f.Name == "d" {
			value = "CONNECTION"
		}
		options += fmt.Sprintf("  -%s\t%s\n", strings.TrimRight(f.Name+" "+value, " "), text)
	})
	fmt.Fprintf(&b, "%s\nExamples:\n%s\n", aligned(options), indented(c.examples))
	return b.String()
}

func indented(text string) string {
	return "  " + strings.ReplaceAll(text, "\n", "\n  ")
}

func overview() string {
	var b strings.Builder
	b.WriteString(`Usage: mdb [-d CONNECTION] COMMAND [options] [arguments]

Commands:
`)
	var list strings.Builder
	for _, c := range commands() {
		fmt.Fprintf(&list, "  %s\t%s\n", c.name, c.short)
	}
	b.WriteString(aligned(list.String()))
	b.WriteString(`
"mdb help COMMAND" shows a command's options and examples. Options may stand before
and behind arguments; "--" ends them.

The database is the one that -d names, by a URL, by key=value pairs or by its name;
or else DATABASE_URL; or else PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE and the
like, as with psql. What other users of the machine must not see is better kept in
a password file or the environment than given by -d.

Exit statuses:
  0    it is done; tail was interrupted
  1    it failed
  2    the usage or the input is wrong; nothing was written
  3    the stream is not at the version that -expect gives; nothing was written
  4    nothing was found, or there was nothing to write
  5    it is unknown whether the messages were written
  130  it was interrupted
`)
	return b.String()
}
