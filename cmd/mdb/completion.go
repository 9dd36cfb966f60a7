package main

import (
	"context"
	"flag"
	"fmt"
	"strings"
)

var completionCommand = command{
	name:  "completion",
	args:  []string{"bash|zsh|fish"},
	words: func() []string { return shells },
	short: "print what completes commands and options in a shell",
	long: `Prints a script for a shell, which then completes the names of commands and of their options. Run it
when the shell starts:

  bash  in ~/.bashrc:                   source <(mdb completion bash)
  zsh   in ~/.zshrc, after compinit:    source <(mdb completion zsh)
  fish  in ~/.config/fish/config.fish:  mdb completion fish | source`,
	examples: `mdb completion bash
mdb completion zsh
mdb completion fish`,
}

func init() {
	// It lists all commands, so it cannot be in the variable that is one of them.
	completionCommand.setup = func(*flag.FlagSet) action {
		return func(_ context.Context, a *app, args []string) error {
			scripts := map[string]func() string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}
			if len(args) != 1 || scripts[args[0]] == nil {
				return usage("want one of %s, got %s", strings.Join(shells, ", "), listed(args))
			}
			return a.say("%s", scripts[args[0]]())
		}
	}
}

var shells = []string{"bash", "zsh", "fish"}

// An option is what completion knows of an option.
type option struct {
	name, text string
	isBool     bool
}

// optionsOf returns the options of a command, or of mdb itself.
func optionsOf(c *command) []option {
	fs := new(app).flags("mdb")
	if c == nil {
		fs.Bool("version", false, "print the version of mdb")
	} else {
		c.setup(fs)
	}
	var options []option
	fs.VisitAll(func(f *flag.Flag) {
		_, text := flag.UnquoteUsage(f)
		bools, ok := f.Value.(interface{ IsBoolFlag() bool })
		options = append(options, option{"-" + f.Name, text, ok && bools.IsBoolFlag()})
	})
	return options
}

func optionNames(options []option) (names []string) {
	for _, o := range options {
		names = append(names, o.name)
	}
	return names
}

// completed returns the commands with the words that may come first after them.
func completed() []command {
	all := append(commands(), command{name: "help", short: "explain a command", words: commandNames, setup: func(*flag.FlagSet) action { return nil }})
	for i := range all {
		if all[i].words == nil {
			all[i].words = func() []string { return nil }
		}
	}
	return all
}

// findCommand is shell code that finds the command before the word that is completed.
const findCommand = `	for ((i = %d; i < %s; i++)); do
		case ${%s[i]} in
		-d) ((i++)) ;;
		-*) ;;
		*)
			command=${%s[i]}
			break
			;;
		esac
	done
`

func bashCompletion() string {
	var b strings.Builder
	b.WriteString("# Completion of mdb for bash, which mdb completion bash has printed.\n_mdb() {\n\tlocal i command='' options='' words=''\n")
	fmt.Fprintf(&b, findCommand, 1, "COMP_CWORD", "COMP_WORDS", "COMP_WORDS")
	b.WriteString("\tcase $command in\n")
	branch := func(name string, options, words []string) {
		fmt.Fprintf(&b, "\t%s)\n\t\toptions='%s'\n\t\twords='%s'\n\t\t;;\n", name, strings.Join(options, " "), strings.Join(words, " "))
	}
	branch("''", optionNames(optionsOf(nil)), append(commandNames(), "help"))
	for _, c := range completed() {
		branch(c.name, optionNames(optionsOf(&c)), c.words())
	}
	b.WriteString(`	esac
	case ${COMP_WORDS[COMP_CWORD]} in
	-*) words=$options ;;
	esac
	COMPREPLY=($(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _mdb mdb
`)
	return b.String()
}

func zshCompletion() string {
	var b strings.Builder
	b.WriteString("#compdef mdb\n# Completion of mdb for zsh, which mdb completion zsh has printed.\n_mdb() {\n\tlocal i command=''\n\tlocal -a options list\n")
	fmt.Fprintf(&b, findCommand, 2, "CURRENT", "words", "words")
	b.WriteString("\tcase $command in\n")
	described := func(name, text string) string {
		return quoted(name + ":" + strings.ReplaceAll(text, ":", `\:`))
	}
	branch := func(name string, options []option, words []string) {
		var lines []string
		for _, o := range options {
			lines = append(lines, described(o.name, o.text))
		}
		fmt.Fprintf(&b, "\t%s)\n\t\toptions=(\n\t\t\t%s\n\t\t)\n", name, strings.Join(lines, "\n\t\t\t"))
		if len(words) > 0 {
			fmt.Fprintf(&b, "\t\tlist=(\n\t\t\t%s\n\t\t)\n", strings.Join(words, "\n\t\t\t"))
		}
		b.WriteString("\t\t;;\n")
	}
	var first []string
	for _, c := range completed() {
		first = append(first, described(c.name, c.short))
	}
	branch("''", optionsOf(nil), first)
	for _, c := range completed() {
		branch(c.name, optionsOf(&c), c.words())
	}
	b.WriteString(`	esac
	if [[ $PREFIX == -* ]]; then
		_describe -o option options
	elif (($#list)); then
		_describe command list
	else
		_files
	fi
}
compdef _mdb mdb
`)
	return b.String()
}

func fishCompletion() string {
	var b strings.Builder
	b.WriteString("# Completion of mdb for fish, which mdb completion fish has printed.\n")
	all := completed()
	names := make([]string, len(all))
	for i := range all {
		names[i] = all[i].name
	}
	noCommand := quoted("not __fish_seen_subcommand_from " + strings.Join(names, " "))
	optionLines := func(condition string, options []option) {
		for _, o := range options {
			kind := "-o"
			if len(o.name) == 2 {
				kind = "-s"
			}
			value := " -r"
			if o.isBool {
				value = ""
			}
			fmt.Fprintf(&b, "complete -c mdb -n %s %s %s%s -d %s\n", condition, kind, o.name[1:], value, quoted(o.text))
		}
	}
	optionLines(noCommand, optionsOf(nil))
	for _, c := range all {
		fmt.Fprintf(&b, "complete -c mdb -n %s -f -a %s -d %s\n", noCommand, c.name, quoted(c.short))
		seen := quoted("__fish_seen_subcommand_from " + c.name)
		optionLines(seen, optionsOf(&c))
		if words := c.words(); len(words) > 0 {
			fmt.Fprintf(&b, "complete -c mdb -n %s -f -a %s\n", seen, quoted(strings.Join(words, " ")))
		}
	}
	return b.String()
}

// quoted quotes a text for any of the shells.
func quoted(text string) string {
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
