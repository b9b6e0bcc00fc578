"""Amortization of a fixed-rate loan with monthly payments, exact to the cent."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal, localcontext
from typing import Annotated, Literal

from pydantic import Field

from services.financial.limits import MAX_MONTHS
from services.tool_server import InvalidArgument, Result

__all__ = ["AmortizationRow", "AmortizationSchedule", "amortization_schedule"]

_CENT = Decimal("0.01")
_DIGITS = 50

# Amounts leave as JSON numbers. Within these limits no total passes 9e13, below which each cent has its own double.
_MAX_PRINCIPAL = 1e11
_MAX_ANNUAL_RATE = 5

Amount = Annotated[float, Field(description="exact to the cent")]


class AmortizationRow(Result):
    month: int = Field(description="number of the month, from 1; of a yearly row the last month in it")
    payment: Amount = Field(description="regular and extra payment together")
    interest: Amount
    principal: Amount = Field(description="the part of the payment that reduces the debt")
    balance: Amount = Field(description="debt after the payment")


class AmortizationSchedule(Result):
    monthly_payment: Amount = Field(description="regular payment, without the extra one")
    final_payment: Amount = Field(description="the last payment, which settles the remaining cents")
    months: int = Field(description="number of payments until the debt is zero")
    total_paid: Amount
    total_interest: Amount
    months_saved: int = Field(description="months fewer than without the extra payment")
    interest_saved: Amount = Field(description="interest less than without the extra payment")
    rows: list[AmortizationRow]


@dataclass(frozen=True, slots=True)
class _Step:
    month: int
    interest: Decimal
    principal: Decimal
    balance: Decimal


def amortization_schedule(
    principal: Annotated[float, Field(ge=0.01, le=_MAX_PRINCIPAL, allow_inf_nan=False, description="amount borrowed")],
    annual_rate: Annotated[
        float,
        Field(ge=0, le=_MAX_ANNUAL_RATE, allow_inf_nan=False, description="nominal yearly rate, 0.06 is 6 %"),
    ],
    months: Annotated[int, Field(ge=1, le=MAX_MONTHS, description="term in months")],
    extra_payment: Annotated[
        float, Field(ge=0, le=_MAX_PRINCIPAL, allow_inf_nan=False, description="paid each month on top, off the debt")
    ] = 0.0,
    rows: Annotated[
        Literal["monthly", "yearly", "none"], Field(description="what to list beside the totals")
    ] = "monthly",
) -> AmortizationSchedule:
    """Amortization schedule of a fixed-rate loan with equal monthly payments, exact to the cent.

    The month's rate is a twelfth of the yearly one; interest and payment are rounded half up to the cent, and the
    last payment settles the rest.
    """
    with localcontext() as context:
        context.prec = _DIGITS
        debt, rate, extra = _to_cents(principal), Decimal(str(annual_rate)) / 12, _to_cents(extra_payment)
        payment = _level_payment(debt, rate, months)
        if payment <= _round(debt * rate):
            raise InvalidArgument(
                "months",
                f"rounded to the cent, the payment of {payment} does not reduce a debt of {debt} over {months} months.",
                "Use fewer months, a lower rate or a larger principal.",
            )
        plain = _pay_off(debt, rate, payment, months)
        steps = _pay_off(debt, rate, payment + extra, months) if extra else plain
        interest, plain_interest = _sum_interest(steps), _sum_interest(plain)
        return AmortizationSchedule(
            monthly_payment=float(payment),
            final_payment=float(steps[-1].interest + steps[-1].principal),
            months=len(steps),
            total_paid=float(debt + interest),
            total_interest=float(interest),
            months_saved=len(plain) - len(steps),
            interest_saved=float(plain_interest - interest),
            rows=_build_rows(steps, {"monthly": 1, "yearly": 12, "none": 0}[rows]),
        )


def _to_cents(amount: float) -> Decimal:
    return _round(Decimal(str(amount)))  # str: the decimal that was written, not the double's 55 digits


def _round(amount: Decimal) -> Decimal:
    return amount.quantize(_CENT, ROUND_HALF_UP)


def _level_payment(debt: Decimal, rate: Decimal, months: int) -> Decimal:
    if rate == 0:
        return _round(debt / months)
    return _round(debt * rate / (1 - (1 + rate) ** -months))


def _pay_off(debt: Decimal, rate: Decimal, payment: Decimal, months: int) -> list[_Step]:
    """Pay until nothing is owed, in the last month of the term whatever is left."""
    steps: list[_Step] = []
    balance = debt
    while balance > 0:
        month = len(steps) + 1
        interest = _round(balance * rate)
        principal = balance if month == months else min(payment - interest, balance)
        balance -= principal
        steps.append(_Step(month, interest, principal, balance))
    return steps


def _sum_interest(steps: Sequence[_Step]) -> Decimal:
    return sum((step.interest for step in steps), Decimal(0))


def _build_rows(steps: Sequence[_Step], span: int) -> list[AmortizationRow]:
    if span == 0:
        return []
    rows: list[AmortizationRow] = []
    for start in range(0, len(steps), span):
        part = steps[start : start + span]
        interest = _sum_interest(part)
        principal = sum((step.principal for step in part), Decimal(0))
        rows.append(
            AmortizationRow(
                month=part[-1].month,
                payment=float(interest + principal),
                interest=float(interest),
                principal=float(principal),
                balance=float(part[-1].balance),
            )
        )
    return rows
