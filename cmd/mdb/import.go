package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/archive"
)

var importCommand = command{
	name:  "import",
	args:  []string{"[FILE]"},
	short: "write the messages that export has written",
	long: `Writes messages that "export" or "read -json" has printed, from a file or the standard input, in
their order. They keep their IDs, streams and positions. A message that is there already is skipped,
so an import can be repeated, and one that was interrupted is continued by the same command. One at
another position, or with other data, ends the import.

The messages get new global positions. So the positions and checkpoints that subscriptions and
consumers have stored do not carry over.

The time of a message is that of its import. -times keeps the times, and -gaps accepts streams whose
first messages were deleted. Both write to the table without the function write_message, and need the
privilege to insert into it, which the role message_store has.`,
	examples: `mdb import archive.jsonl
gunzip < archive.jsonl.gz | mdb -d "$OTHER_URL" import -times -gaps
mdb export | mdb -d "$OTHER_URL" import`,
	setup: func(fs *flag.FlagSet) action {
		var opts archive.ImportOptions
		fs.BoolVar(&opts.Times, "times", false, "keep the times of the messages")
		fs.BoolVar(&opts.Gaps, "gaps", false, "accept positions that do not follow the one before")
		return func(ctx context.Context, a *app, args []string) error {
			name, err := atMostOne(args, "FILE")
			if err != nil {
				return err
			}
			input := a.stdin
			if name != "" {
				f, err := os.Open(name) //nolint:gosec // the user's file
				if err != nil {
					return err
				}
				defer func() { _ = f.Close() }() // it was only read
				input = f
			}
			a.sayItWaits(input)
			return a.withStore(ctx, func(s *mdb.Store) error { return a.importFrom(ctx, s, input, opts) })
		}
	},
}

func (a *app) importFrom(ctx context.Context, s *mdb.Store, input io.Reader, opts archive.ImportOptions) error {
	bar := a.progress()
	read := &countingReader{r: input}
	size := sizeOf(input)
	opts.Progress = func(done archive.Imported) {
		bar.show(share(read.n, size), counted(done.Written+done.Found, "message"))
	}
	done, err := unlessEnded(ctx, func() (archive.Imported, error) { return archive.Import(ctx, s, read, opts) })
	bar.end()
	wrong := (*archive.InputError)(nil)
	switch {
	case errors.As(err, &wrong) && done.Written == 0:
		return usage("%s", strings.TrimPrefix(wrong.Error(), "archive: "))
	case err != nil && done.Written > 0:
		return fmt.Errorf("%w; before that, %s", err, importedText(done))
	case err != nil:
		return err
	case done == archive.Imported{}:
		return nothing("the input contains no messages, nothing was written")
	}
	text := importedText(done)
	if done.Written > 0 {
		text += "\ntheir global positions are new: stored positions and checkpoints do not carry over"
	}
	return a.say("%s\n", text)
}

func importedText(done archive.Imported) string {
	text := counted(done.Written, "message") + " imported"
	if done.Found > 0 {
		text += fmt.Sprintf(", %d already there", done.Found)
	}
	return text
}

// sizeOf returns the size of the input, or 0 if it is unknown.
func sizeOf(input io.Reader) int64 {
	f, ok := input.(*os.File)
	if !ok {
		return 0
	}
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return 0
	}
	return info.Size()
}

type countingReader struct {
	r io.Reader
	n int64
}

func (r *countingReader) Read(b []byte) (int, error) {
	n, err := r.r.Read(b)
	r.n += int64(n)
	return n, err
}
