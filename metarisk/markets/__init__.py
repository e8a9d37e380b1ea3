"""Market risk as mathematics: realised variance, its models, value at risk, and the tests of forecasts.

Pure: numpy and scipy in, numbers out (`arch` where it is asked for GARCH or a confidence set). What is published of it,
and when, is `risks.market`. Shapes: T days, N assets; a return is a daily log return; VaR and ES are positive losses.
"""
