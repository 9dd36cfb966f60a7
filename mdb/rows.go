package mdb

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/scan"
)

// readAll reads to the end of the rows, where the server says whether it has done
// what was asked: a row alone proves nothing.
func readAll(rows pgx.Rows, err error, read func(pgx.Rows) error) error {
	if err != nil {
		return err
	}
	defer rows.Close()
	if err := read(rows); err != nil {
		return err
	}
	rows.Close()
	return rows.Err()
}

func messagesInto(messages *[]Message) func(pgx.Rows) error {
	return func(rows pgx.Rows) (err error) {
		*messages, err = readMessages(rows)
		return err
	}
}

// readMessages reads all rows. What pgx lends is copied by the page before the
// next row overwrites it.
func readMessages(rows pgx.Rows) ([]Message, error) {
	page := scan.NewPage()
	defer page.Release()
	for rows.Next() {
		if page.Len() == 0 {
			if err := describe(page, rows); err != nil {
				return nil, err
			}
		}
		if err := page.Add(rows.RawValues()); err != nil {
			return nil, err
		}
	}
	if page.Len() == 0 || rows.Err() != nil {
		return nil, rows.Err()
	}
	messages := make([]Message, page.Len())
	for i := range messages {
		row := page.Row(i)
		messages[i] = Message{
			ID:             row.ID,
			Stream:         StreamName(row.Stream),
			Type:           row.Type,
			Position:       row.Position,
			GlobalPosition: row.GlobalPosition,
			Time:           row.Time,
			Data:           json.RawMessage(row.Data),
			Metadata:       json.RawMessage(row.Metadata),
		}
	}
	return messages, nil
}

func describe(page *scan.Page, rows pgx.Rows) error {
	fields := rows.FieldDescriptions()
	if err := page.Begin(len(fields)); err != nil {
		return err
	}
	for i := range fields {
		if err := page.Column(i, fields[i].Name, fields[i].DataTypeOID, fields[i].Format); err != nil {
			return err
		}
	}
	return nil
}

// one reads a single row into the destinations.
func one(destinations ...any) func(pgx.Rows) error {
	return func(rows pgx.Rows) error {
		for rows.Next() {
			if err := rows.Scan(destinations...); err != nil {
				return err
			}
		}
		return rows.Err()
	}
}

// number reads a single integer, and leaves n alone if that is NULL.
func number(n *int64) func(pgx.Rows) error {
	return func(rows pgx.Rows) (err error) {
		for rows.Next() {
			fields, values := rows.FieldDescriptions(), rows.RawValues()
			if len(fields) != 1 || len(values) != 1 {
				return fmt.Errorf("rows of %d columns", len(fields))
			}
			if values[0] == nil {
				continue
			}
			if *n, err = integer(fields[0].Format, values[0]); err != nil {
				return err
			}
		}
		return rows.Err()
	}
}

// drain reads rows that say nothing.
func drain(rows pgx.Rows) error {
	for rows.Next() {
		continue
	}
	return rows.Err()
}

// integer reads a bigint, or the integer that another version of the store may
// have, without a detour through a pointer for each value.
func integer(format int16, value []byte) (int64, error) {
	if format == pgx.TextFormatCode {
		return strconv.ParseInt(string(value), 10, 64)
	}
	switch len(value) {
	case 4:
		return int64(int32(binary.BigEndian.Uint32(value))), nil
	case 8:
		return int64(binary.BigEndian.Uint64(value)), nil
	}
	return 0, fmt.Errorf("an integer of %d bytes", len(value))
}
