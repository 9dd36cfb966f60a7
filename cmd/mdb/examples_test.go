package main_test

import (
	"regexp"
	"strings"
	"testing"
)

// TestExamples checks that the examples of the help run on a small store, with
// status 4 where they find nothing.
func TestExamples(t *testing.T) {
	t.Parallel()
	help, _ := (&shell{env: environment()}).run(t, "mdb help")
	names := regexp.MustCompile(`(?m)^  ([a-z]+)  `).FindAllStringSubmatch(help, -1)
	if len(names) != 19 {
		t.Fatalf("the help has %d commands:\n%s", len(names), help)
	}
	for _, name := range names {
		if name[1] == "web" || name[1] == "move" { // one does not end, see TestWebExamples, and one needs shards, see TestMove
			continue
		}
		t.Run(name[1], func(t *testing.T) {
			t.Parallel()
			sh := newShell(t, "$OTHER_URL")
			if out, status := sh.run(t, `
				mdb install -consumers || exit
				echo '{"amount": 10}' > data.json; echo '{"type": "Deposited"}' > messages.jsonl
				for type in Opened Deposited Closed; do mdb write account-123 $type < data.json || exit; done
				echo '{"position": 1}' | mdb write signup:position-mailer Recorded
				if [ `+name[1]+` = import ]; then mdb export archive.jsonl && gzip -k archive.jsonl; fi`); status != 0 {
				t.Fatal(out)
			}
			help, _ := sh.run(t, "mdb help "+name[1])
			_, examples, ok := strings.Cut(help, "\nExamples:\n")
			if !ok {
				t.Fatalf("no examples:\n%s", help)
			}
			for command := range strings.Lines(examples) {
				if command = strings.TrimSpace(command); name[1] == "tail" { // otherwise it would not end
					if command += " -limit 1"; !strings.Contains(command, "-n ") {
						command += " -from 0"
					}
				}
				if out, status := sh.run(t, command); status != 0 && status != 4 {
					t.Errorf("%s: exit status %d\n%s", command, status, out)
				}
			}
		})
	}
}
