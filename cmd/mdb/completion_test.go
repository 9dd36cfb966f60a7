package main_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestCompletion checks what the scripts of mdb completion complete in zsh and fish, where these are installed. A transcript
// checks bash.
func TestCompletion(t *testing.T) {
	t.Parallel()
	// Without a terminal, zsh completes nothing itself, so these functions print what it would show.
	const zsh = `compdef() { :; }; _files() { echo files; }; _describe() { print -l -- ${(P)@[-1]%%:*}; }
		source <(mdb completion zsh)
		completed() { words=("$@"); CURRENT=$#; PREFIX=${@[-1]}; _mdb | grep -- "^$PREFIX"; }; `
	const fish = `mdb completion fish | source; function completed; complete -C (string join ' ' -- $argv) | string split -f 1 \t; true; end; `
	for name, c := range map[string]struct{ script, want string }{
		"a command":              {`completed mdb ex`, "export"},
		"after the database":     {`completed mdb -d database im`, "import"},
		"an option":              {`completed mdb export -res`, "-resume"},
		"an option of check":     {`completed mdb -pooler check -read`, "-read-only"},
		"an option of mdb":       {`completed mdb -vers`, "-version"},
		"an operation":           {`completed mdb consumers res`, "resize resume"},
		"an operation of NOTIFY": {`completed mdb notify st`, "status"},
		"a command to explain":   {`completed mdb help cat`, "categories"},
	} {
		for shell, begin := range map[string]string{"zsh": zsh, "fish": fish} {
			t.Run(name+", "+shell, func(t *testing.T) {
				t.Parallel()
				if _, err := exec.LookPath(shell); err != nil {
					t.Skip(shell + " is not installed")
				}
				cmd := exec.CommandContext(t.Context(), shell, map[string]string{"zsh": "-f", "fish": "-N"}[shell], "-c", begin+c.script)
				cmd.Dir, cmd.Env = t.TempDir(), environment("HOME="+t.TempDir())
				out, err := cmd.CombinedOutput()
				got := strings.Fields(string(out))
				if want := strings.Fields(c.want); err != nil || !sameSet(got, want) {
					t.Errorf("completes %q, %v, want %q", got, err, want)
				}
			})
		}
	}
}

func sameSet(a, b []string) bool {
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}
