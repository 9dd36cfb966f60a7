package main

import (
	"cmp"
	"errors"
	"flag"
	"io"
	"strconv"
	"strings"
)

// flags returns a flag set with -d and -pooler, which all commands take, before or after the
// command's name.
func (a *app) flags(name string) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(io.Discard) // errors and help are printed by the caller
	fs.StringVar(&a.database, "d", a.database, "the database: a URL, key=value pairs, or a database's name")
	fs.BoolVar(&a.pooler, "pooler", a.pooler, "connect through PgBouncer")
	return fs
}

// parse accepts options after arguments, too, and returns the arguments.
func parse(fs *flag.FlagSet, args []string) (arguments []string, err error) {
	for {
		if err := fs.Parse(args); err != nil {
			return nil, explainFlag(fs, err)
		}
		parsed := len(args) - fs.NArg()
		switch {
		case fs.NArg() == 0:
			return arguments, nil
		case parsed > 0 && args[parsed-1] == "--":
			return append(arguments, fs.Args()...), nil
		}
		arguments = append(arguments, fs.Arg(0))
		args = fs.Args()[1:]
	}
}

func explainFlag(fs *flag.FlagSet, err error) error {
	if errors.Is(err, flag.ErrHelp) {
		return err
	}
	if name, ok := strings.CutPrefix(err.Error(), "flag provided but not defined: "); ok {
		var names []string
		fs.VisitAll(func(f *flag.Flag) { names = append(names, "-"+f.Name) })
		return usage("unknown option %s, want one of %s", name, strings.Join(names, ", "))
	}
	return usage("%v", err)
}

// numberFlag declares an option for a number. Its range is checked where it is used.
func numberFlag(fs *flag.FlagSet, name, text string, set func(int64)) {
	fs.Func(name, text, func(given string) error {
		n, err := strconv.ParseInt(given, 10, 64)
		if err != nil {
			return errors.New("want a number")
		}
		set(n)
		return nil
	})
}

// exactly returns the arguments if there is one for each name.
func exactly(args []string, names ...string) ([]string, error) {
	if len(args) != len(names) {
		return nil, usage("want %s, got %s", cmp.Or(strings.Join(names, " "), "no arguments"), listed(args))
	}
	return args, nil
}

// atMostOne returns the argument, or "" if there is none.
func atMostOne(args []string, name string) (string, error) {
	switch len(args) {
	case 0:
		return "", nil
	case 1:
		return args[0], nil
	}
	return "", usage("want at most one %s, got %s", name, listed(args))
}

func listed(args []string) string {
	if len(args) == 0 {
		return "no arguments"
	}
	quoted := make([]string, len(args))
	for i, arg := range args {
		quoted[i] = strconv.Quote(arg)
	}
	return strings.Join(quoted, " ")
}
