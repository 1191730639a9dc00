// Numbers as people read them: units, as many digits as are true, thin spaces in counts.
#pragma once

#include <QString>

#include <cmath>
#include <cstdint>

namespace vitrine::app {

/// 1234567 -> "1 234 567" with thin spaces.
inline QString count(std::int64_t number) {
    QString digits = QString::number(number);
    for (qsizetype at = digits.size() - 3; at > (number < 0 ? 1 : 0); at -= 3) digits.insert(at, QChar(0x2009));
    return digits;
}

/// 5717416 -> "5.7 M".
inline QString rough(std::int64_t number) {
    const double n = static_cast<double>(number);
    if (n >= 1e9) return QString::number(n / 1e9, 'f', 1) + QStringLiteral(" G");
    if (n >= 1e6) return QString::number(n / 1e6, 'f', 1) + QStringLiteral(" M");
    if (n >= 1e3) return QString::number(n / 1e3, 'f', 0) + QStringLiteral(" k");
    return QString::number(number);
}

/// Powers of 1000: "23.1 MB".
inline QString bytes(std::int64_t size) {
    const double n = static_cast<double>(size);
    if (n >= 1e9) return QString::number(n / 1e9, 'f', 1) + QStringLiteral(" GB");
    if (n >= 1e6) return QString::number(n / 1e6, 'f', 1) + QStringLiteral(" MB");
    if (n >= 1e3) return QString::number(n / 1e3, 'f', 0) + QStringLiteral(" KB");
    return QString::number(size) + QStringLiteral(" B");
}

inline QString duration(double milliseconds) {
    if (milliseconds >= 1000) return QString::number(milliseconds / 1000, 'f', 1) + QStringLiteral(" s");
    return QString::number(milliseconds, 'f', milliseconds < 10 ? 1 : 0) + QStringLiteral(" ms");
}

/// Three significant digits, without jumping between notations for common magnitudes.
inline QString value(double v) {
    if (!std::isfinite(v)) return QStringLiteral("not a number");
    const double size = std::abs(v);
    if (size == 0) return QStringLiteral("0");
    if (size < 1e-4 || size >= 1e5) return QString::number(v, 'e', 2);
    return QString::number(v, 'f', size < 1 ? 4 : size < 100 ? 2 : 0);
}

/// For labels that wrap: lets a line end inside a long name. Not for what is copied as a name.
inline QString breakable(QString words) {
    const auto in_number = [&](qsizetype at) {
        const bool first = at == 1 || !words[at - 2].isLetterOrNumber();
        return words[at].isDigit() && (words[at - 1] == QLatin1Char('-')   ? first
                                       : words[at - 1] == QLatin1Char('.') ? !first && words[at - 2].isDigit()
                                                                           : false);
    };
    for (qsizetype at = words.size() - 1; at > 0; --at)
        if (QStringLiteral("_/\\-.").contains(words[at - 1]) && words[at].isLetterOrNumber() && !in_number(at))
            words.insert(at, QChar(0x200B));
    return words;
}

/// For formulas that wrap: a line may end at a space or behind an operator, never inside a name.
inline QString breakableFormula(QString formula) {
    const auto in_name = [&](qsizetype at) {
        return formula[at].isLetterOrNumber() || formula[at] == QLatin1Char('_');
    };
    for (qsizetype at = formula.size() - 1; at > 0; --at) {
        const QChar before = formula[at - 1], here = formula[at];
        if (here.isSpace() || before.isSpace()) continue;
        if (!in_name(at) && here != QLatin1Char('(')) continue;
        // "min-max" is a word, "blocks.3" a name, "-x" and "|x|" hold together: Qt would end a line inside them.
        if (QStringLiteral("-|.").contains(before))
            formula.insert(at, QChar(0x2060));
        else if (QStringLiteral("+*/=<>,;").contains(before))
            formula.insert(at, QChar(0x200B));
    }
    return formula;
}

/// "87 %", "0.4 %", "< 0.1 %".
inline QString percent(double share) {
    const double p = share * 100;
    if (std::isnan(p)) return QStringLiteral("–");  // of what does not vary, say
    if (p < -100) return QStringLiteral("< -100 %");
    if (p > 0 && p < 0.05) return QStringLiteral("< 0.1 %");
    return QString::number(p, 'f', p < 9.95 ? 1 : 0) + QStringLiteral(" %");
}

}  // namespace vitrine::app
