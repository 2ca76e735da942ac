package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Severity says whether the router may start with a finding.
type Severity string

const (
	Warning Severity = "warning"
	Error   Severity = "error"
)

// Finding is one thing to know about a configuration file. Line counts from 1; 0 means the file as a whole.
type Finding struct {
	File     string
	Line     int
	Severity Severity
	Key      string
	Message  string
}

func (f Finding) String() string {
	var b strings.Builder
	b.WriteString(f.File)
	if f.Line > 0 {
		fmt.Fprintf(&b, ":%d", f.Line)
	}
	fmt.Fprintf(&b, ": %s: ", f.Severity)
	if f.Key != "" {
		b.WriteString(f.Key + ": ")
	}
	b.WriteString(f.Message)
	return b.String()
}

// Findings are sorted by line, so that they read along the file.
type Findings []Finding

// Err joins the errors among the findings, or is nil if the configuration can be used.
func (f Findings) Err() error {
	var failures []error
	for _, finding := range f {
		if finding.Severity == Error {
			failures = append(failures, errors.New(finding.String()))
		}
	}
	return errors.Join(failures...)
}

func (f Findings) sorted() Findings {
	slices.SortStableFunc(f, func(a, b Finding) int { return cmp.Compare(a.Line, b.Line) })
	return f
}

// nearest returns " (did you mean `x`?)" for the candidate closest to name, or "" if none is close.
func nearest(name string, candidates []string) string {
	best, bestDistance := "", max(2, len(name)/3)+1
	for _, candidate := range candidates {
		if distance := editDistance(name, candidate); distance < bestDistance {
			best, bestDistance = candidate, distance
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean `%s`?)", best)
}

// editDistance is Levenshtein's distance in bytes.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substitution := diagonal
			if a[i] != b[j] {
				substitution++
			}
			diagonal = row[j+1]
			row[j+1] = min(substitution, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
