package main

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"strings"
)

// A command is a subcommand of mdb.
type command struct {
	name     string
	args     []string // the arguments of each way to call it, without the options
	short    string
	long     string
	examples string
	// words returns those from which the first argument is chosen, for completion. It is nil if there are none.
	words func() []string
	// setup declares the options and returns the action that uses them.
	setup func(fs *flag.FlagSet) action
}

type action func(ctx context.Context, a *app, args []string) error

func commands() []command {
	return []command{
		installCommand, notifyCommand, checkCommand, versionCommand,
		writeCommand, readCommand, tailCommand, lastCommand, getCommand,
		exportCommand, importCommand, deleteCommand, moveCommand,
		streamsCommand, categoriesCommand, typesCommand, consumersCommand, webCommand, proxySQLCommand, completionCommand,
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
		return command{}, usage("unknown command %q, want one of %s", name, strings.Join(commandNames(), ", "))
	}
	return all[i], nil
}

// help prints to the standard output, because the user asked for it.
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
Run "mdb help COMMAND" for the options and examples of a command. Options may come
before or after the arguments; "--" ends them. "mdb -version" prints the version of mdb.

-d gives the database: a URL, key=value pairs, or a database's name. Without -d, mdb
uses DATABASE_URL or, if that is not set, PGHOST, PGPORT, PGUSER, PGPASSWORD,
PGDATABASE and the other variables of psql. Other users of the machine can see the
arguments of a command, so keep the password in a password file or the environment.
-pooler is for a connection through PgBouncer.

Exit statuses:
  0    success, also of an interrupted tail or web
  1    failure
  2    wrong usage or input; nothing was written
  3    the stream is not at the version given by -expect; nothing was written
  4    nothing was found, or there was nothing to write
  5    it is unknown whether the messages were written
  130  interrupted
`)
	return b.String()
}
