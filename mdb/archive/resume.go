package archive

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/messagedb-go/messagedb/internal/jsonl"
)

// Resume prepares a file for the continuation of an export that was interrupted, or for what has been written since. It cuts off a
// last line that is incomplete, moves to the end, and returns the global position of the last message, for
// [ExportOptions.After]. It is 0 if the file is empty.
func Resume(f *os.File) (after int64, err error) {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, fmt.Errorf("archive: %w", err)
	}
	whole, err := lineEndBefore(f, end)
	if err != nil {
		return 0, err
	}
	if whole > 0 {
		if after, err = lastPosition(f, whole); err != nil {
			return 0, err
		}
	}
	if whole < end {
		err = f.Truncate(whole)
	}
	if err == nil {
		_, err = f.Seek(whole, io.SeekStart)
	}
	if err != nil {
		return 0, fmt.Errorf("archive: %w", err)
	}
	return after, nil
}

func lastPosition(f io.ReaderAt, end int64) (int64, error) {
	begin, err := lineEndBefore(f, end-1)
	if err != nil {
		return 0, err
	}
	l, err := jsonl.NewReader(io.NewSectionReader(f, begin, end-begin)).Next()
	if err != nil || l.GlobalPosition == nil {
		return 0, errors.New("archive: the last line of the file is not a message with a global position: nothing can be appended to it")
	}
	return *l.GlobalPosition, nil
}

// lineEndBefore returns the offset after the last line end before the given one, or 0.
func lineEndBefore(f io.ReaderAt, end int64) (int64, error) {
	chunk := make([]byte, bufferSize)
	for end > 0 {
		begin := max(end-bufferSize, 0)
		part := chunk[:end-begin]
		if _, err := f.ReadAt(part, begin); err != nil && !errors.Is(err, io.EOF) {
			return 0, fmt.Errorf("archive: %w", err)
		}
		if i := bytes.LastIndexByte(part, '\n'); i >= 0 {
			return begin + int64(i) + 1, nil
		}
		end = begin
	}
	return 0, nil
}
